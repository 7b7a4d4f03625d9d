"""Determinants and linear systems of small matrices: elimination with partial pivoting, written out step by step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, cast, const, index, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, operand, wide
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType

LARGEST = 64  # rows of a matrix: each is three kernel calls
_HOST = f"a matrix of more than {LARGEST} rows, or of a number of rows not known while compiling"


def _square(call: Call) -> tuple[Size, ...] | None:
    """The shape of operand 0. Raises ShapeError where it is no stack of square matrices."""
    x = call.tensor(0)
    check_kind(call, x.dtype, FLOAT)
    if x.shape is None:
        return None
    if len(x.shape) < 2:
        call.shape_error(f"found {x}; expected [.., n, n]")
    call.same_size(x.shape[-2], x.shape[-1], "number of rows and of columns")
    return x.shape


def _is_small(x: Value) -> bool:
    n = known_shape(x)[-1]
    return isinstance(n, int) and n <= LARGEST


@op("det", onnx="Det", host_reason=_HOST)
class Det:
    """The determinants [..] of matrices [.., n, n]."""

    def infer(call: Call) -> list[TensorType]:
        shape = _square(call)
        return [TensorType(call.tensor(0).dtype, None if shape is None else shape[:-2])]

    def reference(x: np.ndarray) -> np.ndarray:
        return round_to(np.asarray(np.linalg.det(x.astype(np.float64))), x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        (x,) = node.inputs
        if not _is_small(x):
            return None
        total = b.constant(1, dtype=wide(x.type.dtype))
        for pivot, place in _pivots(b, x):
            signed = _signed(arg(1, pivot.type.dtype), arg(2, dtypes.int64))
            total = emit_map(b, arg(0, pivot.type.dtype) * signed, total, pivot, place)
        return _without_matrix(b, total, x, node.output)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield from _matrices(rng)
        yield Sample((np.array([[0, 1], [1, 0]], np.float32),), name="swapped")
        yield Sample((np.zeros((6, 3, 3), np.float32),), name="singular")
        yield Sample((np.ones((6, 0, 0), np.float32),), name="of nothing")


@op("slogdet", host_reason=_HOST)
class SLogDet:
    """The sign and the logarithm of the magnitude of the determinants [..] of matrices [.., n, n]; 0 and -inf for 0."""

    def infer(call: Call) -> list[TensorType]:
        shape = _square(call)
        return [TensorType(call.tensor(0).dtype, None if shape is None else shape[:-2])] * 2

    def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sign, size = np.linalg.slogdet(x.astype(np.float64))
        return round_to(np.asarray(sign), x.dtype), round_to(np.asarray(size), x.dtype)

    def decompose(b: Builder, node: Node) -> tuple[Value, Value] | None:
        (x,) = node.inputs
        if not _is_small(x):
            return None
        dtype = wide(x.type.dtype)
        sign, size = b.constant(1, dtype=dtype), b.constant(0, dtype=dtype)
        for pivot, place in _pivots(b, x):
            value, zero = arg(1, dtype), const(0, dtype)
            direction = select(apply("eq", value, zero), zero, apply("copysign", const(1, dtype), value))
            sign = emit_map(b, arg(0, dtype) * _signed(direction, arg(2, dtypes.int64)), sign, pivot, place)
            size = emit_map(b, arg(0, dtype) + apply("log", apply("abs", value)), size, pivot)
        return _without_matrix(b, sign, x, node.outputs[0]), _without_matrix(b, size, x, node.outputs[1])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield from _matrices(rng)
        yield Sample((np.zeros((6, 3, 3), np.float32),), name="singular")


def _matrices(rng: np.random.Generator) -> Iterator[Sample]:
    for n in (1, 2, 3, 7):
        yield Sample((rng.standard_normal((6, n, n)).astype(np.float32),), tolerance=256, name=f"{n}")
    yield Sample((rng.standard_normal((3, 2, 5, 5)),), tolerance=256, name="float64")
    yield Sample((rng.standard_normal((4, 4)).astype(np.float16),), tolerance=2, name="float16")


@op("solve", host_reason=_HOST)
class Solve:
    """x [.., n, m] with a x = b, for a [.., n, n] and b [.., n, m]; batches broadcast. Where a is singular x holds
    infinities and NaN."""

    def infer(call: Call) -> list[TensorType]:
        dtype, shape, rhs = call.same_dtype(0, 1), _square(call), call.tensor(1).shape
        if shape is None or rhs is None:
            return [TensorType(dtype, None)]
        if len(rhs) < 2:
            call.shape_error(f"the right side is {call.tensor(1)}; expected [.., n, m]")
        call.same_size(shape[-1], rhs[-2], "number of rows (of the matrix, of the right side)")
        return [TensorType(dtype, (*call.broadcast(shape[:-2], rhs[:-2]), *rhs[-2:]))]

    def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        try:
            return round_to(np.linalg.solve(a.astype(np.float64), b.astype(np.float64)), a.dtype)
        except np.linalg.LinAlgError:
            return np.full((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:]), np.nan, a.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        a, rhs = node.inputs
        if not _is_small(a):
            return None
        dtype = a.type.dtype
        shape = known_shape(node.output)
        n: int = known_shape(a)[-1]  # type: ignore[assignment]
        sides = [emit_map(b, operand(0, x), x) if wide(dtype) != dtype else x for x in (a, rhs)]
        spread = [b.emit("expand", x, b.sizes((*shape[:-2], *known_shape(x)[-2:]))) for x in sides]
        rows = b.emit("concat", *spread, axis=-1)
        for k in range(n):
            rows = _cleared(b, rows, k)
        return rows if wide(dtype) == dtype else emit_map(b, cast(arg(0, wide(dtype)), dtype), rows)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for n, m in ((1, 1), (3, 2), (8, 8)):
            a = rng.standard_normal((6, n, n)) + (n + 3) * np.eye(n)
            yield Sample((a, rng.standard_normal((6, n, m))), tolerance=256, name=f"{n} {m}")
        swapped = np.array([[0, 2, 1], [4, 0, 1], [0, 1, 5]], np.float32)
        yield Sample((swapped, rng.standard_normal((4, 3, 2)).astype(np.float32)), tolerance=64, name="zeros above")
        yield Sample((np.eye(3, dtype=np.float16) * 2, np.ones((3, 1), np.float16)), tolerance=1, name="float16")


def _signed(value: Expr, place: Expr) -> Expr:
    """A pivot's factor of the determinant: rows that change places change its sign."""
    return select(apply("eq", place, const(0, dtypes.int64)), value, -value)


def _pivot(b: Builder, rows: Value, first: int) -> tuple[Value, Value]:
    """Where the largest element of column 0 is, from row `first` on and counted from there [.., 1, 1], and its row."""
    dtype, rank = rows.type.dtype, len(known_shape(rows))
    below = _part(b, rows, -2, first)
    column = _part(b, below, -1, 0, 1)
    stage = Stage("argmax", apply("abs", arg(0, dtype)))
    place = b.emit("reduce", column, axes=(rank - 2,), keepdims=True, stages=(stage,), rows=(stat(0, dtypes.int64),))
    chosen = select(apply("eq", index(rank - 2), arg(1, dtypes.int64)), arg(0, dtype), const(0, dtype))
    stage = Stage("sum", chosen)
    row = b.emit("reduce", below, place, axes=(rank - 2,), keepdims=True, stages=(stage,), rows=(stat(0, dtype),))
    return place, row


def _pivots(b: Builder, x: Value) -> Iterator[tuple[Value, Value]]:
    """Each step's pivot [.., 1, 1], and where it was among the rows left."""
    rows = emit_map(b, operand(0, x), x) if wide(x.type.dtype) != x.type.dtype else x
    dtype, rank = rows.type.dtype, len(known_shape(rows))
    for _ in range(known_shape(x)[-1]):  # type: ignore[arg-type]
        place, row = _pivot(b, rows, 0)
        pivot = _part(b, row, -1, 0, 1)
        yield pivot, place
        top, rest = _part(b, rows, -2, 0, 1), _part(b, rows, -2, 1)
        operands = [_part(b, part, -1, *box) for part in (rest, top) for box in ((1,), (0, 1))]
        element, head, top_element, top_head, factor, divisor = (arg(i, dtype) for i in range(6))
        swapped = apply("eq", index(rank - 2) + const(1, dtypes.int64), arg(6, dtypes.int64))
        element, head = select(swapped, top_element, element), select(swapped, top_head, head)
        ratio = select(apply("eq", divisor, const(0, dtype)), divisor, head / divisor)
        rows = emit_map(b, element - ratio * factor, *operands, _part(b, row, -1, 1), pivot, place)


def _cleared(b: Builder, rows: Value, k: int) -> Value:
    """One step of Gauss and Jordan's elimination: the largest element from row k on divides its row, which takes place
    k and clears column 0, which is left out."""
    dtype, rank = rows.type.dtype, len(known_shape(rows))
    place, row = _pivot(b, rows, k)
    here = _part(b, rows, -2, k, 1)
    operands = [_part(b, part, -1, *box) for part in (rows, here) for box in ((1,), (0, 1))]
    element, head, own, own_head, factor, divisor = (arg(i, dtype) for i in range(6))
    position, step = index(rank - 2), const(k, dtypes.int64)
    swapped = apply("eq", position, arg(6, dtypes.int64) + step)
    element, head = select(swapped, own, element), select(swapped, own_head, head)
    scaled = factor / divisor
    cleared = select(apply("eq", position, step), scaled, element - head * scaled)
    return emit_map(b, cleared, *operands, _part(b, row, -1, 1), _part(b, row, -1, 0, 1), place)


def _part(b: Builder, x: Value, axis: int, start: int, size: int | None = None) -> Value:
    """x from `start` on along an axis, `size` of it or all the rest."""
    shape = known_shape(x)
    at = axis % len(shape)
    count = shape[at] - start if size is None else size
    return b.emit(
        "slice",
        x,
        starts=tuple(start if a == at else 0 for a in range(len(shape))),
        sizes=tuple(count if a == at else extent for a, extent in enumerate(shape)),
        steps=(1,) * len(shape),
    )


def _without_matrix(b: Builder, total: Value, x: Value, output: Value) -> Value:
    """[.., 1, 1], or a scalar for matrices of nothing, as the node's output."""
    shape = known_shape(x)[:-2]
    spread = b.emit("expand", total, b.sizes((*shape, 1, 1)))
    reshaped = b.emit("reshape", spread, b.sizes(shape))
    dtype = output.type.dtype
    return reshaped if total.type.dtype == dtype else emit_map(b, cast(arg(0, total.type.dtype), dtype), reshaped)
