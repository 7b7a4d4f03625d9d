"""ATen reductions, softmax and scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, extent, select, stat
from compiler.frontends.aten.base import (
    ROWS,
    AtenBuilder,
    aten,
    axes_of,
    axis_of,
    compute_type,
    convert,
    pointwise,
    reshape,
    shape_of,
    tensor_type,
)
from compiler.ir import Value
from compiler.kernels import Stage

Axes = int | Sequence[int] | None


def _reduce(
    b: AtenBuilder,
    x: Value,
    axes: Axes,
    keepdims: bool,
    stages: Sequence[Stage],
    rows: Sequence[Expr],
) -> tuple[Value, ...]:
    """One `reduce` over `axes` (None or none: all); a 0-d tensor is reduced as one row of one element."""
    rank = tensor_type(x).rank
    if rank == 0:
        x, keepdims = reshape(b, x, [1]), False
    attrs = {"axes": axes_of(axes, rank) or (0,), "keepdims": keepdims, "stages": tuple(stages), "rows": tuple(rows)}
    return b.emit_many("reduce", (x,), attrs, ["reduce"] * len(rows))


def _element(x: Value, dtype: DType) -> Expr:
    return cast(arg(0, tensor_type(x).dtype), dtype)


@aten("aten.sum.default", "aten.sum.dim_IntList")
def total(b: AtenBuilder, x: Value, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None) -> Value:
    """The sum over `axes` (None: all), accumulated in torch's computing type of the result."""
    acc = compute_type(b.dtype)
    return _reduce(b, x, axes, keepdim, [Stage("sum", _element(x, acc))], [cast(stat(0, acc), b.dtype)])[0]


@aten("aten.mean.default", "aten.mean.dim")
def mean(b: AtenBuilder, x: Value, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None) -> Value:
    """The mean over `axes` (None: all), accumulated in torch's computing type of the result."""
    acc = compute_type(b.dtype)
    row = cast(stat(0, acc) / extent(acc), b.dtype)
    return _reduce(b, x, axes, keepdim, [Stage("sum", _element(x, acc))], [row])[0]


@aten("aten.prod.default")
def _prod(b: AtenBuilder, x: Value, *, dtype: DType | None = None) -> Value:
    return _prod_axis(b, x, None)


@aten("aten.prod.dim_int")
def _prod_axis(
    b: AtenBuilder, x: Value, axis: int | None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    acc = compute_type(b.dtype)
    return _reduce(b, x, axis, keepdim, [Stage("prod", _element(x, acc))], [cast(stat(0, acc), b.dtype)])[0]


@aten("aten.var.correction", "aten.var.dim", "aten.var.default")
def _var(b: AtenBuilder, x: Value, axes: Axes = None, unbiased: bool = True, keepdim: bool = False, *,
         correction: float | None = None) -> Value:  # fmt: skip
    return _variance(b, x, axes, _correction(unbiased, correction), keepdim, [_spread])[0]


@aten("aten.std.correction", "aten.std.dim", "aten.std.default")
def _std(b: AtenBuilder, x: Value, axes: Axes = None, unbiased: bool = True, keepdim: bool = False, *,
         correction: float | None = None) -> Value:  # fmt: skip
    rows = [lambda acc, freedom: apply("sqrt", _spread(acc, freedom))]
    return _variance(b, x, axes, _correction(unbiased, correction), keepdim, rows)[0]


@aten("aten.var_mean.correction", "aten.var_mean.dim", "aten.var_mean.default")
def _var_mean(b: AtenBuilder, x: Value, axes: Axes = None, unbiased: bool = True, keepdim: bool = False, *,
              correction: float | None = None) -> tuple[Value, ...]:  # fmt: skip
    rows = [_spread, lambda acc, freedom: stat(0, acc) / extent(acc)]
    return _variance(b, x, axes, _correction(unbiased, correction), keepdim, rows)


def _correction(unbiased: bool, correction: float | None) -> float:
    return float(unbiased) if correction is None else correction


def _spread(acc: DType, freedom: Expr) -> Expr:
    return stat(1, acc) / freedom


def _variance(
    b: AtenBuilder,
    x: Value,
    axes: Axes,
    correction: float,
    keepdim: bool,
    rows: Sequence[Callable[[DType, Expr], Expr]],
) -> tuple[Value, ...]:
    # Two passes: the mean, then the squares of the differences from it.
    acc = compute_type(b.dtype)
    element = _element(x, acc)
    difference = element - stat(0, acc) / extent(acc)
    freedom = apply("max", extent(acc) - correction, const(0, acc))
    stages = [Stage("sum", element), Stage("sum", difference * difference)]
    return _reduce(b, x, axes, keepdim, stages, [cast(row(acc, freedom), b.dtype) for row in rows])


def _extreme(b: AtenBuilder, x: Value, axes: Axes, keepdim: bool, fn: str) -> Value:
    held = tensor_type(x).dtype
    return _reduce(b, x, axes, keepdim, [Stage(fn, _element(x, held))], [stat(0, held)])[0]


def extreme_and_index(b: AtenBuilder, x: Value, axis: int, keepdim: bool, fn: str) -> tuple[Value, ...]:
    """The largest or smallest (`fn` max or min) along `axis`, and where it lies first."""
    held = tensor_type(x).dtype
    element = _element(x, held)
    stages = [Stage(fn, element), Stage(f"arg{fn}", element)]
    return _reduce(b, x, axis, keepdim, stages, [stat(0, held), stat(1, dtypes.int64)])


def _index_of_extreme(b: AtenBuilder, x: Value, axis: int | None, keepdim: bool, fn: str) -> Value:
    stages = [Stage(f"arg{fn}", _element(x, tensor_type(x).dtype))]
    return _reduce(b, x, axis, keepdim, stages, [stat(0, dtypes.int64)])[0]


def _enter_extremes() -> None:
    for fn in ("max", "min"):
        ROWS[f"aten.a{fn}.default"] = lambda b, x, axes=(), keepdim=False, fn=fn: _extreme(b, x, axes, keepdim, fn)
        ROWS[f"aten.{fn}.default"] = lambda b, x, fn=fn: _extreme(b, x, None, False, fn)
        ROWS[f"aten.{fn}.dim"] = lambda b, x, axis, keepdim=False, fn=fn: extreme_and_index(b, x, axis, keepdim, fn)
        ROWS[f"aten.arg{fn}.default"] = lambda b, x, axis=None, keepdim=False, fn=fn: _index_of_extreme(
            b, x, axis, keepdim, fn
        )
    for fn in ("any", "all"):
        for overload in ("default", "dim", "dims"):
            ROWS[f"aten.{fn}.{overload}"] = lambda b, x, axes=None, keepdim=False, fn=fn: _any_all(
                b, x, axes, keepdim, fn
            )
        ROWS[f"aten._is_{fn}_true.default"] = lambda b, x, fn=fn: _any_all(b, x, None, False, fn)


def _any_all(b: AtenBuilder, x: Value, axes: Axes, keepdim: bool, fn: str) -> Value:
    found = cast(stat(0, dtypes.boolean), b.dtype)
    return _reduce(b, x, axes, keepdim, [Stage(fn, _element(x, dtypes.boolean))], [found])[0]


_enter_extremes()


@aten("aten.linalg_vector_norm.default")
def vector_norm(
    b: AtenBuilder, x: Value, order: float = 2, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    """The norm of the given order over `axes` (None: all), accumulated in torch's computing type of the result."""
    acc = compute_type(b.dtype)
    size = apply("abs", _element(x, acc))
    total = stat(0, acc)
    if order == 2:
        fn, term, result = "sum", size * size, apply("sqrt", total)
    elif order == 1:
        fn, term, result = "sum", size, total
    elif order == 0:
        fn, term, result = "sum", cast(apply("ne", size, const(0, acc)), acc), total
    elif order in (float("inf"), float("-inf")):
        fn, term, result = "max" if order > 0 else "min", size, total
    else:
        power, root = const(order, acc), const(1 / order, acc)
        fn, term, result = "sum", apply("pow", size, power), apply("pow", total, root)
    return _reduce(b, x, axes, keepdim, [Stage(fn, term)], [cast(result, b.dtype)])[0]


@aten("aten._cdist_forward.default")
def _cdist(b: AtenBuilder, x: Value, y: Value, order: float, compute_mode: int | None) -> Value:
    """Distances [.., M, N] between the rows of x [.., M, K] and of y [.., N, K], by differences, not products."""
    rows = reshape(b, x, [*shape_of(x)[:-1], 1, shape_of(x)[-1]])
    columns = reshape(b, y, [*shape_of(y)[:-2], 1, *shape_of(y)[-2:]])
    return vector_norm(b, pointwise(b, (rows, columns), lambda p, q: p - q), order, -1)


@aten("aten._softmax.default", "aten.softmax.int")
def _softmax(b: AtenBuilder, x: Value, axis: int, half_to_float: bool = False, **ignored: object) -> Value:
    return _normalised(b, x, axis, "softmax")


@aten("aten._log_softmax.default", "aten.log_softmax.int")
def _log_softmax(b: AtenBuilder, x: Value, axis: int, half_to_float: bool = False, **ignored: object) -> Value:
    return _normalised(b, x, axis, "log_softmax")


def _normalised(b: AtenBuilder, x: Value, axis: int, name: str) -> Value:
    rank = tensor_type(x).rank
    x = convert(b, x, b.dtype)
    if rank == 0:
        return reshape(b, b.emit(name, reshape(b, x, [1]), axes=(0,)), [])
    return b.emit(name, x, axes=(axis_of(axis, rank),))


@aten("aten.cumsum.default")
def _cumsum(b: AtenBuilder, x: Value, axis: int, *, dtype: DType | None = None) -> Value:
    return _running(b, "cum_sum", x, axis)


@aten("aten.cumprod.default")
def _cumprod(b: AtenBuilder, x: Value, axis: int, *, dtype: DType | None = None) -> Value:
    return _running(b, "cum_prod", x, axis)


def _running(b: AtenBuilder, name: str, x: Value, axis: int) -> Value:
    x = convert(b, x, b.dtype)
    return b.emit(name, x, b.constant(axis_of(axis, tensor_type(x).rank))) if shape_of(x) else x


@aten("aten.logsumexp.default")
def _logsumexp(b: AtenBuilder, x: Value, axes: Axes, keepdim: bool = False) -> Value:
    acc = compute_type(b.dtype)
    element = _element(x, acc)
    top = stat(0, acc)
    finite = select(apply("lt", apply("abs", top), const(float("inf"), acc)), top, const(0, acc))
    stages = [Stage("max", element), Stage("sum", apply("exp", element - finite))]
    return _reduce(b, x, axes, keepdim, stages, [cast(apply("log", stat(1, acc)) + finite, b.dtype)])[0]


@aten("aten.bucketize.Tensor")
def _bucketize(b: AtenBuilder, x: Value, edges: Value, *, out_int32: bool = False, right: bool = False) -> Value:
    # The number of edges below (or, with right, not above) each element.
    column = reshape(b, x, [*shape_of(x), 1])
    below = "ge" if right else "gt"
    dtype = tensor_type(x).dtype
    line = convert(b, edges, dtype)
    flags = pointwise(b, (column, line), lambda p, q: apply(below, p, q), dtype, dtypes.int64)
    stage = Stage("sum", arg(0, dtypes.int64))
    return _reduce(b, flags, -1, False, [stage], [cast(stat(0, dtypes.int64), b.dtype)])[0]
