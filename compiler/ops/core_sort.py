"""TopK, a core op: what is at the front of a sorted axis, and where it was. Whole sorts are the k of all elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from compiler import dims, dtypes, kernels, views
from compiler.dims import Size
from compiler.errors import ShapeError
from compiler.ir import Node
from compiler.kernels import SortSpec
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.onnx_types import attribute_to_input
from compiler.ops.shape import listed
from compiler.ops.sort_keys import total_order
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

_ATTRS = {"axis": -1, "largest": 1, "sorted": 1}


@op(
    "top_k",
    onnx=OnnxRow("TopK", _ATTRS, upgrades=((10, attribute_to_input("k", 1)),)),
    attrs=_ATTRS,
    value_operands=(1,),
)
class TopK:
    """The k largest (or smallest) elements along an axis in order, and where they were (int64); of equal ones the first
    first. A NaN is greater than any number, as NumPy and PyTorch sort; -0 equals 0. What is not asked to be sorted is
    sorted too. Operand 1 is k, at most the length of the axis, else a ShapeError is raised."""

    def infer(call: Call) -> list[TensorType]:
        x, k = call.tensor(0), call.value(1)
        if x.shape is None:
            return [x, TensorType(dtypes.int64, None)][: call.outputs]
        axis = call.axis(call.attrs["axis"], len(x.shape))
        if not x.shape:
            call.shape_error(f"{x} has no axis; expected a tensor of at least one axis")
        count: Size = call.fresh() if k is None else listed(k)[0]
        if isinstance(count, int) and count < 0:
            call.shape_error(f"k is {count}; expected a number from 0 to the length of axis {axis} of {x}")
        if dims.is_static((count, x.shape[axis])) and count > x.shape[axis]:
            call.shape_error(f"k is {count}, but axis {axis} of {x} has only {x.shape[axis]} elements")
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        return [TensorType(x.dtype, shape), TensorType(dtypes.int64, shape)][: call.outputs]

    def reference(
        x: np.ndarray, k: np.ndarray, *, axis: int, largest: int, sorted: int
    ) -> tuple[np.ndarray, np.ndarray]:
        places = first_places(x, int(k.reshape(())), axis, bool(largest))
        return np.take_along_axis(x, places, axis), places

    def lower(node: Node, low: Lowering) -> None:
        x = low.view(node.inputs[0])  # type: ignore[arg-type]
        axis = node.attrs["axis"] % len(x.shape)
        values, indices = (*node.outputs, None)[:2]
        wanted = [value for value in (values, indices) if value is not None and value.name]
        writes = [low.allocate(value) for value in wanted]
        if any(size == 0 for size in writes[0].shape):
            return
        rows = [dims.product(x.shape[:axis]), dims.product(x.shape[axis + 1 :])]
        read = low.reshaped(x, (rows[0], x.shape[axis], rows[1]))
        parts = [views.reshape(view, (rows[0], view.shape[axis], rows[1])) for view in writes]
        unit = read.strides[1] == 1
        spec = SortSpec(
            x.dtype,
            bool(node.attrs["largest"]),
            values in wanted,
            indices in wanted,
            kernels.UNIT if unit else kernels.GENERAL,
        )
        low.call(spec, [read], parts)  # type: ignore[arg-type]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.integers(0, 5, (3, 7)).astype(np.float32)
        for largest in (0, 1):
            yield Sample((x, np.array([4])), {"largest": largest}, name=f"largest{largest}")
        yield Sample((x, np.array([0])), {"axis": 0}, name="none")
        special = np.array([[np.nan, 0.0, -np.inf, -0.0, np.inf, 1, -1, np.nan, -np.nan, 1e-40, -1e-40]] * 4)
        codes = rng.integers(0, 1 << 62, (2, 67, 3))
        for dtype in ("float32", "float64", "float16", "bfloat16"):
            numpy = dtypes.named(dtype).numpy
            for largest in (0, 1):
                attrs = {"largest": largest}
                yield Sample((special.astype(numpy), np.array(11)), attrs, name=f"{dtype} special largest{largest}")
            yield Sample((rng.standard_normal((2, 301)).astype(numpy), np.array([300])), name=f"{dtype} long")
        for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"):
            numpy = dtypes.named(dtype).numpy
            whole = (codes & 1).astype(numpy) if dtype == "bool" else codes.view(f"u{8}").astype(numpy)
            yield Sample((whole, np.array([67])), {"axis": 1, "largest": 0}, name=dtype)
            yield Sample((whole, np.array([2])), {"axis": 0}, name=f"{dtype} first axis")
        yield Sample((np.zeros((1, 1), np.float32), np.array([1])), name="one")


def first_places(x: np.ndarray, count: int, axis: int, descending: bool) -> np.ndarray:
    """Where the first `count` elements of each sorted row along `axis` are (int64), equal ones in order. Raises
    ShapeError where a row has fewer."""
    if count > x.shape[axis]:
        raise ShapeError(f"k is {count}, but axis {axis} of {x.shape} has only {x.shape[axis]} elements")
    keys = np.moveaxis(total_order(x), axis, -1)
    order = np.argsort(~keys if descending else keys, axis=-1, kind="stable")[..., :count]
    return np.moveaxis(order, -1, axis).astype(np.int64)
