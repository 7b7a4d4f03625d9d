"""Determinants and linear systems of small matrices: elimination with partial pivoting, written out step by step."""

from __future__ import annotations

import contextlib
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

LARGEST = 64  # rows of a matrix: each is a handful of kernel calls
TOO_LARGE = f"a matrix of more than {LARGEST} rows, of none, or of a number of rows not known while compiling"


def square(call: Call) -> tuple[Size, ...] | None:
    """The shape of operand 0. Raises ShapeError where it is no stack of square matrices."""
    x = call.tensor(0)
    check_kind(call, x.dtype, FLOAT)
    if x.shape is None:
        return None
    if len(x.shape) < 2:
        call.shape_error(f"found {x}; expected [.., n, n]")
    call.same_size(x.shape[-2], x.shape[-1], "number of rows and of columns")
    return x.shape


def is_small(x: Value) -> bool:
    """Whether elimination of matrices [.., n, n] may be written out."""
    n = known_shape(x)[-1]
    return isinstance(n, int) and 1 <= n <= LARGEST


@op("det", onnx="Det", host_reason=TOO_LARGE)
class Det:
    """The determinants [..] of matrices [.., n, n]."""

    def infer(call: Call) -> list[TensorType]:
        shape = square(call)
        return [TensorType(call.tensor(0).dtype, None if shape is None else shape[:-2])]

    def reference(x: np.ndarray) -> np.ndarray:
        return round_to(np.asarray(np.linalg.det(x.astype(np.float64))), x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        (x,) = node.inputs
        if not is_small(x):
            return None
        pivot, place = _pivots(b, x)
        signed = emit_map(b, _signed(operand(0, pivot), arg(1, dtypes.int64)), pivot, place)
        return _over_pivots(b, "reduce_prod", signed, node.output)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield from _matrices(rng)
        yield Sample((np.array([[0, 1], [1, 0]], np.float32),), name="swapped")
        yield Sample((np.zeros((6, 3, 3), np.float32),), name="singular")


@op("slogdet", host_reason=TOO_LARGE)
class SLogDet:
    """The sign and the logarithm of the magnitude of the determinants [..] of matrices [.., n, n]; 0 and -inf for 0."""

    def infer(call: Call) -> list[TensorType]:
        shape = square(call)
        return [TensorType(call.tensor(0).dtype, None if shape is None else shape[:-2])] * 2

    def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sign, size = np.linalg.slogdet(x.astype(np.float64))
        return round_to(np.asarray(sign), x.dtype), round_to(np.asarray(size), x.dtype)

    def decompose(b: Builder, node: Node) -> tuple[Value, Value] | None:
        (x,) = node.inputs
        if not is_small(x):
            return None
        pivot, place = _pivots(b, x)
        value = operand(0, pivot)
        zero = const(0, value.dtype)
        direction = select(apply("eq", value, zero), zero, apply("copysign", const(1, value.dtype), value))
        sign = emit_map(b, _signed(direction, arg(1, dtypes.int64)), pivot, place)
        size = emit_map(b, apply("log", apply("abs", value)), pivot)
        return _over_pivots(b, "reduce_prod", sign, node.outputs[0]), _over_pivots(
            b, "reduce_sum", size, node.outputs[1]
        )

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield from _matrices(rng)
        yield Sample((np.zeros((6, 3, 3), np.float32),), name="singular")


def _matrices(rng: np.random.Generator) -> Iterator[Sample]:
    for n in (1, 2, 3, 7):
        yield Sample((rng.standard_normal((6, n, n)).astype(np.float32),), tolerance=256, name=f"{n}")
    yield Sample((rng.standard_normal((3, 2, 5, 5)),), tolerance=256, name="float64")
    yield Sample((rng.standard_normal((4, 4)).astype(np.float16),), tolerance=2, name="float16")


@op("solve", host_reason=TOO_LARGE)
class Solve:
    """x [.., n, m] with a x = b, for a [.., n, n] and b [.., n, m]; batches broadcast. NaN where elimination meets a
    column of zeros: a is singular."""

    def infer(call: Call) -> list[TensorType]:
        dtype, shape, rhs = call.same_dtype(0, 1), square(call), call.tensor(1).shape
        if shape is None or rhs is None:
            return [TensorType(dtype, None)]
        if len(rhs) < 2:
            call.shape_error(f"the right side is {call.tensor(1)}; expected [.., n, m]")
        call.same_size(shape[-1], rhs[-2], "number of rows (of the matrix, of the right side)")
        return [TensorType(dtype, (*call.broadcast(shape[:-2], rhs[:-2]), *rhs[-2:]))]

    def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        sides = [np.broadcast_to(x.astype(np.float64), (*shape, *x.shape[-2:])) for x in (a, b)]
        result = np.full((*shape, *b.shape[-2:]), np.nan)
        for at in np.ndindex(shape):
            with contextlib.suppress(np.linalg.LinAlgError):
                result[at] = np.linalg.solve(sides[0][at], sides[1][at])
        return round_to(result, a.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        a, rhs = node.inputs
        if not is_small(a):
            return None
        dtype = a.type.dtype
        shape = known_shape(node.output)
        n: int = known_shape(a)[-1]  # type: ignore[assignment]
        sides = [emit_map(b, operand(0, x), x) if wide(dtype) != dtype else x for x in (a, rhs)]
        spread = [b.emit("expand", x, b.sizes((*shape[:-2], *known_shape(x)[-2:]))) for x in sides]
        rows = b.emit("concat", *spread, axis=-1)
        for left in range(n, 0, -1):  # the rows still to choose a pivot from come first
            place, row = _pivot(b, rows, left)
            scaled = _scaled(b, row)
            rows = b.emit("concat", _cleared(b, rows, place, row, np.nan), scaled, axis=-2) if n > 1 else scaled
        return rows if wide(dtype) == dtype else emit_map(b, cast(arg(0, wide(dtype)), dtype), rows)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for n, m in ((1, 1), (3, 2), (8, 8)):
            a = rng.standard_normal((6, n, n)) + (n + 3) * np.eye(n)
            yield Sample((a, rng.standard_normal((6, n, m))), tolerance=4096, name=f"{n} {m}")


def _signed(value: Expr, place: Expr) -> Expr:
    """A pivot's factor of the determinant: rows that change places change its sign."""
    return select(apply("eq", place, const(0, dtypes.int64)), value, -value)


def _pivot(b: Builder, rows: Value, count: Size) -> tuple[Value, Value]:
    """Where the largest element of column 0 is among the first rows [.., 1, 1], and its row [.., 1, c]."""
    dtype, rank = rows.type.dtype, len(known_shape(rows))
    first = part(b, rows, -2, 0, count)
    column = part(b, first, -1, 0, 1)
    stage = Stage("argmax", apply("abs", arg(0, dtype)))
    place = b.emit("reduce", column, axes=(rank - 2,), keepdims=True, stages=(stage,), rows=(stat(0, dtypes.int64),))
    chosen = select(apply("eq", index(rank - 2), arg(1, dtypes.int64)), arg(0, dtype), const(0, dtype))
    stage = Stage("sum", chosen)
    row = b.emit("reduce", first, place, axes=(rank - 2,), keepdims=True, stages=(stage,), rows=(stat(0, dtype),))
    return place, row


def _scaled(b: Builder, row: Value) -> Value:
    """A pivot's row over the pivot, which is left out; NaN where that is 0."""
    dtype = row.type.dtype
    pivot = arg(1, dtype)
    scaled = select(apply("eq", pivot, const(0, dtype)), const(np.nan, dtype), arg(0, dtype) / pivot)
    return emit_map(b, scaled, part(b, row, -1, 1), part(b, row, -1, 0, 1))


def _pivots(b: Builder, x: Value) -> tuple[Value, Value]:
    """The pivots [.., n], and where each was among the rows left."""
    *outer, n, _ = known_shape(x)
    rows = emit_map(b, operand(0, x), x) if wide(x.type.dtype) != x.type.dtype else x
    pivots, places = [], []
    for _ in range(n):  # type: ignore[arg-type]
        place, row = _pivot(b, rows, known_shape(rows)[-2])
        pivots.append(part(b, row, -1, 0, 1))
        places.append(place)
        rows = _cleared(b, rows, place, row, 0.0)
    joined = (b.emit("concat", *parts, axis=-1) if len(parts) > 1 else parts[0] for parts in (pivots, places))
    pivot, place = (b.emit("reshape", whole, b.sizes((*outer, n))) for whole in joined)
    return pivot, place


def _cleared(b: Builder, rows: Value, place: Value, row: Value, singular: float) -> Value:
    """The rows but the pivot's `row`, which changed places with the first, and but column 0, which it clears. singular:
    how often it is taken from them where the pivot is 0."""
    dtype, rank = rows.type.dtype, len(known_shape(rows))
    top, rest = part(b, rows, -2, 0, 1), part(b, rows, -2, 1)
    operands = [part(b, half, -1, *box) for half in (rest, top) for box in ((1,), (0, 1))]
    element, head, top_element, top_head, factor, divisor = (arg(i, dtype) for i in range(6))
    swapped = apply("eq", index(rank - 2) + const(1, dtypes.int64), arg(6, dtypes.int64))
    element, head = select(swapped, top_element, element), select(swapped, top_head, head)
    ratio = select(apply("eq", divisor, const(0, dtype)), const(singular, dtype), head / divisor)
    left = element - ratio * factor
    return emit_map(b, left, *operands, part(b, row, -1, 1), part(b, row, -1, 0, 1), place)


def part(b: Builder, x: Value, axis: int, start: int, size: Size | None = None) -> Value:
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


def _over_pivots(b: Builder, fn: str, pivots: Value, output: Value) -> Value:
    """[..] from [.., n], as the node's output."""
    total = b.emit(fn, pivots, b.constant(np.array([-1])), keepdims=0)
    dtype = output.type.dtype
    return total if total.type.dtype == dtype else emit_map(b, cast(arg(0, total.type.dtype), dtype), total)
