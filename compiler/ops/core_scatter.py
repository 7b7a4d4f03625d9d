"""The core op that combines elements with what is at computed places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg
from compiler.ir import Node
from compiler.kernels import ScatterSpec, View
from compiler.lowering.axes import stride_class
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.rounding import round_to
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

_ARRAY = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
_LOGICAL = {"add": "or", "mul": "and", "max": "or", "min": "and"}


def combine_at(data: np.ndarray, places: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    """data with updates put at (of equal places the last stays), or combined into, the places: in order, floats in
    float64 and rounded once at the end."""
    if reduction == "none":
        result = data.copy()
        result[places] = updates
        return result
    real = dtypes.from_numpy(data.dtype).is_float
    wide, new = (a.astype(np.float64 if real else a.dtype) for a in (data, updates))
    with np.errstate(all="ignore"):
        _ARRAY[reduction].at(wide, places, new)
    return round_to(wide, data.dtype) if real else wide


def combination(reduction: str, dtype: DType) -> Expr:
    """What is left of an element (arg 0) and an update (arg 1)."""
    there, comes = arg(0, dtype), arg(1, dtype)
    if reduction == "none":
        return comes
    return apply(_LOGICAL[reduction] if dtype.kind == "bool" else reduction, there, comes)


@op("scatter", attrs={"reduction": REQUIRED})
class Scatter:
    """data [O, A, R] with updates [O, I, R] combined into data[o, places[o, i, r], r] by `reduction` (none, add, mul,
    max, min) for ascending i; places count from the end where negative.

    Every step is rounded to the element type, as NumPy's ufunc.at and ONNX's reference round: a sum of many float16
    loses small terms. Cast to float32 first where that matters.
    """

    def infer(call: Call) -> list[TensorType]:
        data, places, updates = (call.tensor(i) for i in range(3))
        call.same_dtype(0, 2)
        if not places.dtype.is_integer:
            call.dtype_error(f"the places are {places.dtype}; expected int32 or int64")
        if any(t.shape is None or len(t.shape) != 3 for t in (data, places, updates)):
            call.shape_error(f"data {data}, places {places}, updates {updates}; expected [O, A, R] and twice [O, I, R]")
        for axis, what in enumerate(("outer size", "number of updates", "length of a row")):
            call.same_size(places.shape[axis], updates.shape[axis], f"the {what}")  # type: ignore[index]
            if axis != 1:
                call.same_size(data.shape[axis], places.shape[axis], f"the {what}")  # type: ignore[index]
        return [data]

    def reference(data: np.ndarray, places: np.ndarray, updates: np.ndarray, *, reduction: str) -> np.ndarray:
        outer, _, inner = np.indices(places.shape, sparse=True)
        at = np.where(places < 0, places + data.shape[1], places).astype(np.int64)
        return combine_at(data, tuple(np.broadcast_arrays(outer, at, inner)), updates, reduction)

    def lower(node: Node, low: Lowering) -> None:
        data, places, updates = (low.view(value) for value in node.inputs)  # type: ignore[arg-type]
        out = low.allocate(node.output)
        low.copy(data, out)
        if any(size == 0 for size in (*updates.shape, *out.shape)):
            return
        pairs = [(updates, out)]
        if node.attrs["reduction"] == "none":  # only moved: as integers of the element's size, so any type goes
            pairs = list(zip(_words(updates), _words(out), strict=True))
        for source, table in pairs:
            classes = tuple(stride_class(view.strides[2], view.shape[2]) for view in (source, places, table))
            if places.shape[2] == 1:  # a place for each element: BROADCAST would say for each row
                classes = (classes[0], "unit", classes[2])
            combine = combination(node.attrs["reduction"], table.dtype)
            low.call(ScatterSpec(combine, places.dtype, classes[:2], classes[2:]), [source, places], [table])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        places = np.array([[0, -1, 3, 0, 0], [2, 2, -4, 1, 2]])[..., None]
        for reduction in ("none", *_ARRAY):
            for width, dtype in ((1, np.float32), (17, np.float32), (3, np.int8), (5, np.float64)):
                data, updates = (rng.standard_normal((2, n, width)) * 3 for n in (4, 5))
                spread = np.broadcast_to(places, updates.shape).astype(np.int32 if width == 17 else np.int64)
                name = f"{reduction}-{np.dtype(dtype).name}-{width}"
                yield Sample(
                    (data.astype(dtype), spread.copy(), updates.astype(dtype)), {"reduction": reduction}, 8, name
                )
        half = [rng.standard_normal((1, n, 9)).astype(np.float16) for n in (4, 6)]
        apart = rng.permuted(np.tile(np.array([0, 1, 2, 3, 1, -1])[None, :, None], (1, 1, 9)), axis=1)
        yield Sample((half[0], apart, half[1]), {"reduction": "add"}, 8, "float16")
        brain = [h.astype(dtypes.bfloat16.numpy) for h in half]
        yield Sample((brain[0], apart, brain[1]), {"reduction": "max"}, name="bfloat16")
        truth = [h > 0 for h in half]
        yield Sample((truth[0], apart, truth[1]), {"reduction": "mul"}, name="bool")
        wide = [(h + 1j * h).astype(np.complex128) for h in half]
        yield Sample((wide[0], apart, wide[1]), {"reduction": "none"}, name="complex128")
        yield Sample((half[0], apart[:, :0], half[1][:, :0]), {"reduction": "add"}, name="nothing")


def _words(view: View) -> list[View]:
    """An element's bytes as one integer of its size, or as two of 8 bytes."""
    if view.dtype.bytes <= 8:
        return [replace(view, dtype=dtypes.named(f"uint{8 * view.dtype.bytes}"))]
    strides = tuple(stride * 2 for stride in view.strides)
    return [replace(view, dtype=dtypes.uint64, strides=strides, offset=view.offset * 2 + part) for part in (0, 1)]
