"""Ops whose result's size is decided by contents: nonzero and compress. They run as Host steps, vectorised in NumPy,
except where what decides the size is known while compiling or planning."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.ir import Node, Value
from compiler.op import Call, Sample, op
from compiler.types import TensorType


@op("nonzero", onnx="NonZero", tracks_values=True, host_reason="how many elements are not zero is data")
class NonZero:
    """The places of the elements that are not zero, in row-major order: x of rank r -> int64 [r, count]. A NaN counts,
    -0 does not; of a scalar the result is [0, 0] or [0, 1]."""

    def infer(call: Call) -> list[TensorType]:
        x, contents = call.tensor(0), call.value(0)
        if x.shape is None:
            return [TensorType(dtypes.int64, None)]
        count: Size = call.fresh() if contents is None or contents.dtype == object else int(np.count_nonzero(contents))
        return [TensorType(dtypes.int64, (len(x.shape), count))]

    def reference(x: np.ndarray) -> np.ndarray:
        rest = np.flatnonzero(x.astype(bool))
        places = np.empty((x.ndim, rest.size), np.int64)
        for axis in reversed(range(1, x.ndim)):  # NumPy's own unravel_index takes ten times as long
            outer = rest // x.shape[axis]
            np.subtract(rest, outer * x.shape[axis], out=places[axis])
            rest = outer
        places[:1] = rest
        return places

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        floats = np.array([[0, -0.0, np.nan], [1, 0, -2]])
        for dtype in (np.float32, np.float64, np.float16):
            yield Sample((floats.astype(dtype),), name=np.dtype(dtype).name)
        for shape in ((7,), (1, 5, 3), (2, 3, 2, 4), (3, 0), (1,)):
            yield Sample((rng.integers(0, 2, shape),), name=str(shape))
        yield Sample((np.zeros((2, 3), bool),), name="none")
        yield Sample((np.array(True),), name="scalar")


_COMPRESS = {"axis": None}


@op(
    "compress",
    onnx="Compress",
    attrs=_COMPRESS,
    value_operands=(1,),
    host_reason="how many elements are selected is data",
)
class Compress:
    """The slices of x along `axis` (None: the elements of x in row-major order) where the boolean vector in operand 1
    is true; a vector shorter than the axis selects nothing of the rest. Raises ValueError for a longer one."""

    def infer(call: Call) -> list[TensorType]:
        x, condition, axis = call.tensor(0), call.tensor(1), call.attrs["axis"]
        if condition.dtype != dtypes.boolean:
            call.dtype_error(f"the condition is {condition.dtype}; expected bool")
        if condition.shape is not None and len(condition.shape) != 1:
            call.shape_error(f"the condition is {condition}; expected a vector")
        if x.shape is None:
            return [TensorType(x.dtype, None if axis is not None else (call.fresh(),))]
        shape = (dims.product(x.shape),) if axis is None else x.shape
        axis = call.axis(axis or 0, len(shape))
        if dims.is_static((*(condition.shape or ()), shape[axis])) and condition.elements > shape[axis]:
            call.shape_error(f"the condition has {condition.elements} elements, but axis {axis} of {x} {shape[axis]}")
        known = call.value(1)
        count: Size = call.fresh() if known is None else int(np.count_nonzero(known))
        return [TensorType(x.dtype, (*shape[:axis], count, *shape[axis + 1 :]))]

    def reference(x: np.ndarray, condition: np.ndarray, *, axis: int | None) -> np.ndarray:
        length = x.size if axis is None else x.shape[axis]
        if condition.size > length:
            raise ValueError(
                f"compress: found {condition.size} conditions for {length} elements; expected at most one each"
            )
        return np.compress(condition, x, axis)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, condition = node.inputs
        known = b.constants.get(condition.name)
        if known is None or x.type.shape is None:
            return None
        if node.attrs["axis"] is None:
            x = b.emit("reshape", x, b.sizes((-1,)))
        return b.emit("take", x, b.constant(np.flatnonzero(known)), axis=node.attrs["axis"] or 0)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 5, 3)).astype(np.float32)
        condition = np.array([True, False, False, True])
        yield Sample((x, condition), name="elements")
        yield Sample((x, condition), {"axis": 1}, name="axis1")
        yield Sample((x.astype(np.float16), condition[:3]), {"axis": -1}, name="last")
        yield Sample((rng.integers(0, 9, (4, 1)), ~condition), {"axis": 0}, name="first")
        yield Sample((x > 0, np.zeros(2, bool)), {"axis": 0}, name="none")
