"""Operators of ONNX's ml domain that the onnx package has no reference for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler import dtypes
from compiler.op import Call, OnnxRow, Sample, op
from compiler.types import SequenceType, TensorType, ValueType

_ML = "ai.onnx.ml"
_MAPPER = {"cats_int64s": (), "cats_strings": (), "default_int64": -1, "default_string": "_Unused"}
_ZIP = {"classlabels_int64s": (), "classlabels_strings": ()}


@op(
    "category_mapper",
    onnx=OnnxRow("CategoryMapper", _MAPPER, domain=_ML),
    attrs=_MAPPER,
    host_reason="a table of strings",
)
class CategoryMapper:
    """Strings to their integers by the table, or back."""

    def infer(call: Call) -> Sequence[ValueType]:
        x = call.tensor(0)
        if len(call.attrs["cats_int64s"]) != len(call.attrs["cats_strings"]):
            call.shape_error("cats_int64s and cats_strings differ in length; expected a pair of each")
        return [TensorType(dtypes.int64 if x.dtype is dtypes.string else dtypes.string, x.shape)]

    def reference(
        x: np.ndarray,
        *,
        cats_int64s: tuple[int, ...],
        cats_strings: tuple[str, ...],
        default_int64: int,
        default_string: str,
    ) -> np.ndarray:
        if x.dtype == object:
            table = dict(zip(cats_strings, cats_int64s, strict=True))
            found = [table.get(item, default_int64) for item in x.flat]
            return np.array(found, np.int64).reshape(x.shape)
        names = dict(zip(cats_int64s, cats_strings, strict=True))
        return np.array([names.get(int(item), default_string) for item in x.flat], object).reshape(x.shape)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        table = {**_MAPPER, "cats_int64s": (3, 7), "cats_strings": ("a", "b")}
        yield Sample((np.array([["a", "c"], ["b", "a"]], object),), table, name="strings")
        yield Sample((np.array([3, 4, 7]),), table, name="integers")


@op("zip_map", onnx=OnnxRow("ZipMap", _ZIP, domain=_ML), attrs=_ZIP, host_reason="a list of dictionaries")
class ZipMap:
    """A list with, for each row of scores, the dictionary from class label to score."""

    def infer(call: Call) -> Sequence[ValueType]:
        call.tensor(0)
        return [SequenceType(None)]

    def reference(
        x: np.ndarray, *, classlabels_int64s: tuple[int, ...], classlabels_strings: tuple[str, ...]
    ) -> tuple[list[dict[int | str, float]]]:
        labels = classlabels_int64s or classlabels_strings
        return ([dict(zip(labels, row.tolist(), strict=True)) for row in np.atleast_2d(x)],)
