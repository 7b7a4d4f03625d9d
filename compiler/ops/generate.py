"""Ops that make tensors from shapes, positions and constants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Dim, Size, Undecided
from compiler.dtypes import DType
from compiler.expr import apply, arg, cast, const, index, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map, in_float64, known_sizes, operand
from compiler.ops.extents import larger
from compiler.ops.onnx_types import onnx_dtype
from compiler.ops.shape import known_shape, listed, unknown_shape, vector_length
from compiler.types import TensorType


@op(
    "constant_of_shape",
    onnx=OnnxRow("ConstantOfShape", {"value": np.zeros(1, np.float32)}),
    attrs={"value": np.zeros(1, np.float32)},
    value_operands=(0,),
    tracks_values=True,
)
class ConstantOfShape:
    """A tensor of the shape in operand 0, filled with the one element of attribute `value`."""

    def infer(call: Call) -> list[TensorType]:
        shape, dtype = call.value(0), dtypes.from_numpy(call.attrs["value"].dtype)
        wanted = unknown_shape(call, vector_length(call, 0)) if shape is None else tuple(listed(shape))
        return [TensorType(dtype, wanted)]

    def reference(shape: np.ndarray, *, value: np.ndarray) -> np.ndarray:
        return np.full([int(size) for size in shape], value.reshape(()), value.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        return b.emit("expand", b.constant(node.attrs["value"].reshape(())), node.inputs[0])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((np.array([2, 3]),), name="zeros")
        yield Sample((np.array([4]),), {"value": np.array([7])}, name="int64")
        yield Sample((np.array([], np.int64),), {"value": np.array([True])}, name="scalar")


def range_length(start: Any, limit: Any, delta: Any) -> Size:
    """How many elements Range has. Raises Undecided where delta's sign is symbolic."""
    if isinstance(start, Dim) or isinstance(limit, Dim) or isinstance(delta, Dim):
        if not isinstance(delta, int):
            raise Undecided(f"the sign of the step {delta} depends on the sizes")
        span = limit - start if delta > 0 else start - limit
        return larger(dims.ceil_div(span, abs(delta)), 0)
    if isinstance(start, int):
        return len(range(start, limit, delta))
    return max(math.ceil((limit - start) / delta), 0)


@op(
    "range",
    onnx=OnnxRow("Range", {"stash_type": 1}),
    attrs={"stash_type": 1},
    value_operands=(0, 1, 2),
    tracks_values=True,
    host_reason="the number of elements is computed in the graph",
)
class Range:
    """start, start + delta, ... up to but not including limit, each computed as start + i * delta."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(0, 1, 2)
        ends = [call.value(i) for i in range(3)]
        if any(end is None for end in ends):
            return [TensorType(dtype, (call.fresh(),))]
        try:
            length = range_length(*(_plain_scalar(end) for end in ends))  # type: ignore[arg-type]
        except Undecided:
            length = call.fresh()
        return [TensorType(dtype, (length,))]

    def reference(start: np.ndarray, limit: np.ndarray, delta: np.ndarray, *, stash_type: int) -> np.ndarray:
        first, last, step = (_plain_scalar(a) for a in (start, limit, delta))
        length = range_length(first, last, step)
        if isinstance(length, Dim):
            raise Undecided(f"a range of {length} elements")
        if object in (start.dtype, limit.dtype, delta.dtype):
            return np.array([first + i * step for i in range(length)], dtype=object)
        positions = np.arange(length)
        return in_float64(lambda a, d: a + positions * d, (start.reshape(()), delta.reshape(())), {}, start.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        if any(b.contents(v) is None for v in node.inputs):
            return None
        known = known_sizes(b, node)
        if known is not None:
            return known
        start, _, delta = node.inputs
        dtype: DType = start.type.dtype
        first, step = operand(0, start), operand(1, delta)
        element = cast(first + cast(index(0), first.dtype) * step, dtype)
        scalars = [b.emit("reshape", v, b.sizes(())) if v.type.shape else v for v in (start, delta)]
        return b.emit("map", *scalars, hint="range", outputs=(element,), shape=known_shape(node.output))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for start, limit, delta in ((0, 5, 1), (3, 9, 4), (10, -3, -2), (5, 5, 1), (5, 2, 1)):
            yield Sample(tuple(np.array(v) for v in (start, limit, delta)), name=f"{start} to {limit}")
        yield Sample(tuple(np.array(v, np.float32) for v in (0.5, 3.1, 0.3)), tolerance=2, name="float32")
        yield Sample(tuple(np.array(v, np.float64) for v in (1, -2, -0.25)), tolerance=2, name="float64")


def _plain_scalar(array: np.ndarray) -> Any:
    """The one element as a Python number or a Dim."""
    return np.asarray(array).reshape(()).item()


@op(
    "one_hot",
    onnx=OnnxRow("OneHot", {"axis": -1}),
    attrs={"axis": -1},
    value_operands=(1,),
    host_reason="the depth is computed in the graph",
)
class OneHot:
    """values[1] where a new axis of size depth equals the index, else values[0]: operands indices, depth, values."""

    def infer(call: Call) -> list[TensorType]:
        indices, depth = call.tensor(0), call.value(1)
        dtype = call.tensor(2).dtype
        if indices.shape is None:
            return [TensorType(dtype, None)]
        size = call.fresh() if depth is None else listed(depth)[0]
        axis = call.axis(call.attrs["axis"], len(indices.shape) + 1)
        return [TensorType(dtype, (*indices.shape[:axis], size, *indices.shape[axis:]))]

    def reference(indices: np.ndarray, depth: np.ndarray, values: np.ndarray, *, axis: int) -> np.ndarray:
        size = int(np.asarray(depth).reshape(()))
        whole = np.expand_dims(indices.astype(np.int64), axis)
        places = np.arange(size).reshape([-1 if a == axis % whole.ndim else 1 for a in range(whole.ndim)])
        hot = np.where(whole < 0, whole + size, whole) == places
        return np.where(hot, values[1], values[0])

    def decompose(b: Builder, node: Node) -> Value | None:
        indices, depth, values = node.inputs
        if b.contents(depth) is None:
            return None
        shape = known_shape(node.output)
        axis = node.attrs["axis"] % len(shape)
        column = b.emit("reshape", indices, b.sizes((*shape[:axis], 1, *shape[axis + 1 :])))
        count = b.emit("reshape", depth, b.sizes((1,)))
        off, on = (b.emit("slice", values, starts=(i,), sizes=(1,), steps=(1,)) for i in (0, 1))
        place, size = cast(operand(0, column), dtypes.int64), cast(operand(1, count), dtypes.int64)
        place = select(apply("lt", place, const(0, dtypes.int64)), place + size, place)
        dtype = values.type.dtype
        chosen = select(apply("eq", place, index(axis)), arg(3, dtype), arg(2, dtype))
        return b.emit("map", column, count, off, on, hint="one_hot", outputs=(chosen,), shape=shape)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        indices, values = np.array([[0, 3], [-1, 9]]), np.array([0.5, 2], np.float32)
        for axis in (-1, 0, 1):
            yield Sample((indices, np.array(4), values), {"axis": axis}, name=str(axis))
        yield Sample((indices.astype(np.float32), np.array([4.0], np.float32), np.array([0, 1])), name="float")


def _build_eye_like(b: Builder, node: Any) -> Value:
    x = node.required(0)
    dtype = onnx_dtype(node.attrs["dtype"]) if node.attr("dtype") is not None else x.type.dtype
    return b.emit("eye_like", x, dtype=dtype, k=node.attr("k", 0))


@op("eye_like", onnx=OnnxRow("EyeLike", build=_build_eye_like), attrs={"dtype": dtypes.float32, "k": 0})
class EyeLike:
    """Ones on the k-th diagonal of a matrix shaped as x, zeros elsewhere."""

    def infer(call: Call) -> list[TensorType]:
        shape = call.tensor(0).shape
        if shape is not None and len(shape) != 2:
            call.shape_error(f"found rank {len(shape)}, expected a matrix")
        return [TensorType(call.attrs["dtype"], shape)]

    def reference(x: np.ndarray, *, dtype: DType, k: int) -> np.ndarray:
        return np.eye(x.shape[0], x.shape[1], k).astype(dtype.numpy)

    def decompose(b: Builder, node: Node) -> Value:
        dtype, k = node.attrs["dtype"], const(node.attrs["k"], dtypes.int64)
        diagonal = apply("eq", index(1) - index(0), k)
        element = select(diagonal, const(1, dtype), const(0, dtype))
        return b.emit("map", hint="eye", outputs=(element,), shape=known_shape(node.output))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = np.zeros((3, 5), np.int32)
        for k in (0, 2, -1):
            yield Sample((x,), {"k": k}, name=str(k))
        yield Sample((x,), {"dtype": dtypes.int32}, name="int32")


@op("trilu", onnx=OnnxRow("Trilu", {"upper": 1}), attrs={"upper": 1})
class Trilu:
    """The part of the last two axes on and above (or below) the diagonal in operand 1 (0); zeros elsewhere."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        if x.shape is not None and len(x.shape) < 2:
            call.shape_error(f"found rank {len(x.shape)}, expected at least 2")
        return [x]

    def reference(x: np.ndarray, k: np.ndarray | None = None, *, upper: int) -> np.ndarray:
        diagonal = 0 if k is None else int(k.reshape(()))
        rows, columns = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
        inside = columns - rows >= diagonal if upper else columns - rows <= diagonal
        return np.where(inside, x, np.zeros((), x.dtype))

    def decompose(b: Builder, node: Node) -> Value:
        x, k = (*node.inputs, None)[:2]
        rank, dtype = len(known_shape(x)), x.type.dtype
        if k is None:
            k = b.constant(np.int64(0))
        elif k.type.shape:
            k = b.emit("reshape", k, b.sizes(()))
        distance = index(rank - 1) - index(rank - 2)
        inside = apply("ge" if node.attrs["upper"] else "le", distance, arg(1, dtypes.int64))
        return emit_map(b, select(inside, arg(0, dtype), const(0, dtype)), x, k, hint="trilu")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 4, 5)).astype(np.float32)
        for upper in (0, 1):
            yield Sample((x,), {"upper": upper}, name=f"upper{upper}")
            yield Sample((x, np.array(-1)), {"upper": upper}, name=f"upper{upper} k-1")
        yield Sample((np.ones((3, 3), bool), np.array([1])), name="bool")
