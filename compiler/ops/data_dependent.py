"""Ops whose result's size is decided by contents: nonzero, compress, unique. They run as Host
steps, vectorised in NumPy, except where what decides the size is known while compiling or planning."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.frontends.onnx_node import OnnxNode
from compiler.ir import Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.sort_keys import stable_order, total_order
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


def _build_compress(b: Builder, node: OnnxNode) -> Value:
    x, condition, axis = node.required(0), node.required(1), node.attrs["axis"]
    known = b.constants.get(condition.name)
    if known is None:
        return b.emit("compress", x, condition, axis=axis, hint=node.outputs[0])
    x = x if axis is not None else b.emit("reshape", x, b.sizes((-1,)))
    return b.emit("take", x, b.constant(np.flatnonzero(known)), axis=axis or 0, hint=node.outputs[0])


@op(
    "compress",
    onnx=OnnxRow("Compress", _COMPRESS, build=_build_compress),
    attrs=_COMPRESS,
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

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 5, 3)).astype(np.float32)
        condition = np.array([True, False, False, True])
        yield Sample((x, condition), name="elements")
        yield Sample((x, condition), {"axis": 1}, name="axis1")
        yield Sample((x.astype(np.float16), condition[:3]), {"axis": -1}, name="last")
        yield Sample((rng.integers(0, 9, (4, 1)), ~condition), {"axis": 0}, name="first")
        yield Sample((x > 0, np.zeros(2, bool)), {"axis": 0}, name="none")


_UNIQUE = {"axis": None, "sorted": 1}


@op("unique", onnx="Unique", attrs=_UNIQUE, host_reason="how many elements differ is data")
class Unique:
    """What differs among the elements of x, or among its slices along `axis`: these values in ascending order (slices
    by their elements in row-major order) or, not `sorted`, in order of appearance; where each appears first; for each
    element or slice of x which of the values it is; how often each appears. NaNs equal each other and are greatest."""

    def infer(call: Call) -> list[TensorType]:
        x, axis, count = call.tensor(0), call.attrs["axis"], call.fresh()
        length: Size = call.fresh() if x.shape is None else 0
        if x.shape is None:
            values = TensorType(x.dtype, None if axis is not None else (count,))
        else:
            shape = (dims.product(x.shape),) if axis is None else x.shape
            axis = call.axis(axis or 0, len(shape))
            values, length = TensorType(x.dtype, (*shape[:axis], count, *shape[axis + 1 :])), shape[axis]
        vectors = [TensorType(dtypes.int64, (size,)) for size in (count, length, count)]
        return [values, *vectors][: call.outputs]

    def reference(x: np.ndarray, *, axis: int | None, sorted: int) -> tuple[np.ndarray, ...]:
        items = x.reshape(-1) if axis is None else x
        axis = axis or 0
        length = items.shape[axis]
        keys = np.moveaxis(total_order(items), axis, 0).reshape(length, items.size // max(length, 1))
        order = stable_order(keys)
        first = np.arange(length) == 0
        for column in keys.T:
            ranked = column[order]
            first[1:] |= ranked[1:] != ranked[:-1]
        starts = np.flatnonzero(first)
        places, counts = order[starts], np.diff(starts, append=len(order))
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.cumsum(first) - 1
        if not sorted:
            appearance = np.argsort(places)
            places, counts = places[appearance], counts[appearance]
            inverse = np.argsort(appearance)[inverse]
        return np.take(items, places, axis), places, inverse, counts

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = np.array([[2, np.nan, -0.0, 1], [np.nan, 0.0, -np.inf, 2], [2, 1, 3, -1]])
        for dtype in (np.float32, np.float64, np.float16):
            for sorted in (0, 1):
                yield Sample((x.astype(dtype),), {"sorted": sorted}, name=f"{np.dtype(dtype).name} sorted{sorted}")
        cube = rng.integers(-1, 2, (4, 7, 1))
        for axis in (0, 1, -1):
            for whole in (np.int64, np.int8):
                yield Sample((cube.astype(whole),), {"axis": axis}, name=f"{np.dtype(whole).name} axis{axis}")
            yield Sample((cube,), {"axis": axis, "sorted": 0}, name=f"appearance axis{axis}")
        yield Sample((rng.integers(0, 2, (5, 3)) > 0,), {"axis": 1}, name="bool")
        yield Sample((np.array([2**63 - 1, -(2**63), 0, -1, 0]),), name="wide")
        yield Sample((np.zeros((0, 2), np.float32),), {"axis": 0}, name="no slices")
        yield Sample((np.zeros((3, 0), np.float32),), {"axis": 0}, name="empty slices")
