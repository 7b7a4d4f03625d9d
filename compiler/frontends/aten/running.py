"""ATen calls that look along an axis at what came before, or where a value would go among sorted ones."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, select, stat
from compiler.expr import index as position
from compiler.frontends.aten.base import (
    AtenBuilder,
    Operand,
    aten,
    axis_of,
    compute_type,
    promote,
    reshape,
    shape_of,
    tensor_type,
    to_tensor,
    transpose,
)
from compiler.ir import Value
from compiler.kernels import Stage


def _over_earlier(b: AtenBuilder, x: Value, axis: int, stages: Sequence[Stage], rows: Sequence[Expr]) -> list[Value]:
    """For each element a reduction over its row, in which `_before` says what comes up to it."""
    rank = tensor_type(x).rank
    if rank == 0:
        return [reshape(b, result, []) for result in _over_earlier(b, reshape(b, x, [1]), 0, stages, rows)]
    axis = axis_of(axis, rank)
    last = [*(a for a in range(rank) if a != axis), axis]
    turned = transpose(b, x, last)
    *outer, length = shape_of(turned)
    wide = reshape(b, turned, [*outer, 1, length])
    here = b.emit("map", outputs=(position(0),), shape=(length, 1))
    attrs = {"axes": (rank,), "keepdims": False, "stages": tuple(stages), "rows": tuple(rows)}
    results = b.emit_many("reduce", (wide, here), attrs, ["running"] * len(rows))
    return [transpose(b, result, [last.index(a) for a in range(rank)]) for result in results]


def _before(rank: int) -> Expr:
    """Whether an element of a row lies at or before the one its reduction is for."""
    return apply("le", position(max(rank, 1)), arg(1, dtypes.int64))


def _running_extreme(b: AtenBuilder, x: Value, axis: int, fn: str, lowest: object) -> tuple[Value, ...]:
    """The extreme so far, and where it lies: of equal ones, and of NaNs, the last."""
    held, before = tensor_type(x).dtype, _before(tensor_type(x).rank)
    element = arg(0, held)
    best = Stage(fn, select(before, element, const(lowest, held)))  # type: ignore[arg-type]
    same = apply("or", apply("eq", element, stat(0, held)), apply("ne", element, element))
    nowhere = const(-1, dtypes.int64)
    place = Stage("max", select(apply("and", before, same), position(max(tensor_type(x).rank, 1)), nowhere))
    return tuple(_over_earlier(b, x, axis, [best, place], [stat(0, held), stat(1, dtypes.int64)]))


@aten("aten.cummax.default")
def _cummax(b: AtenBuilder, x: Value, axis: int) -> tuple[Value, ...]:
    return _running_extreme(b, x, axis, "max", _ends(tensor_type(x).dtype)[0])


@aten("aten.cummin.default")
def _cummin(b: AtenBuilder, x: Value, axis: int) -> tuple[Value, ...]:
    return _running_extreme(b, x, axis, "min", _ends(tensor_type(x).dtype)[1])


def _ends(dtype: DType) -> tuple[float, float]:
    """The least and the greatest value of a type."""
    if dtype.is_float:
        return float("-inf"), float("inf")
    if dtype == dtypes.boolean:
        return False, True
    low = 0 if dtype.kind == "uint" else -(1 << dtype.bits - 1)
    return low, low + (1 << dtype.bits) - 1


@aten("aten.logcumsumexp.default")
def _logcumsumexp(b: AtenBuilder, x: Value, axis: int) -> Value:
    acc, before = compute_type(b.dtype), _before(tensor_type(x).rank)
    element, lowest = cast(arg(0, tensor_type(x).dtype), acc), const(float("-inf"), acc)
    top = stat(0, acc)
    finite = select(apply("lt", apply("abs", top), const(float("inf"), acc)), top, const(0, acc))
    term = select(before, apply("exp", element - finite), const(0, acc))
    stages = [Stage("max", select(before, element, lowest)), Stage("sum", term)]
    return _over_earlier(b, x, axis, stages, [cast(apply("log", stat(1, acc)) + finite, b.dtype)])[0]


@aten("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def _searchsorted(
    b: AtenBuilder,
    edges: Value,
    x: Operand,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """How many of the ascending `edges` [.., N] are less than (on the right: at most) each element of x [.., M]."""
    if sorter is not None:
        edges = b.emit("gather_elements", edges, sorter, axis=tensor_type(edges).rank - 1)
    dtype = promote(edges, x)
    x = to_tensor(b, x, dtype)
    column = reshape(b, x, [*shape_of(x), 1])
    # Of one row of edges all elements make use; of several, each row has its own elements.
    line = edges
    if tensor_type(edges).rank > 1:
        line = reshape(b, edges, [*shape_of(edges)[:-1], 1, shape_of(edges)[-1]])
    not_above = apply("le" if right or side == "right" else "lt", cast(arg(1, tensor_type(edges).dtype), dtype),
                      arg(0, dtype))  # fmt: skip
    stage = Stage("sum", cast(not_above, dtypes.int64))
    row = cast(stat(0, dtypes.int64), b.dtype)
    rank = tensor_type(x).rank
    return b.emit("reduce", column, line, axes=(rank,), keepdims=False, stages=(stage,), rows=(row,))
