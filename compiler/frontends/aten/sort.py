"""ATen sorts and what is read off a sorted axis. NaNs are greatest; equal elements keep their order where torch leaves
it open."""

from __future__ import annotations

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.expr import apply, arg, cast, const, select, stat
from compiler.frontends.aten.base import AtenBuilder, aten, axis_of, reshape, shape_of, slice_axis, tensor_type
from compiler.ir import Value
from compiler.kernels import Stage


@aten("aten.topk.default")
def _topk(
    b: AtenBuilder, x: Value, k: Size, axis: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    shape = shape_of(x)
    attrs = {"axis": axis_of(axis, len(shape)), "largest": int(largest), "sorted": int(sorted)}
    line = x if shape else reshape(b, x, [1])
    found = b.emit_many("top_k", (line, b.sizes((k,))), attrs, ("values", "indices"))
    return found if shape else tuple(reshape(b, value, []) for value in found)


@aten("aten.sort.default")
def _sort(b: AtenBuilder, x: Value, axis: int = -1, descending: bool = False) -> tuple[Value, ...]:
    return _topk(b, x, _length(x, axis), axis, descending)


@aten("aten.sort.stable")
def _sort_stable(
    b: AtenBuilder, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    return _sort(b, x, dim, descending)


@aten("aten.argsort.default")
def _argsort(b: AtenBuilder, x: Value, axis: int = -1, descending: bool = False) -> Value:
    return _sort(b, x, axis, descending)[1]


@aten("aten.argsort.stable")
def _argsort_stable(b: AtenBuilder, x: Value, *, stable: bool, dim: int = -1, descending: bool = False) -> Value:
    return _sort(b, x, dim, descending)[1]


@aten("aten.msort.default")
def _msort(b: AtenBuilder, x: Value) -> Value:
    return _sort(b, x, 0)[0]


@aten("aten.kthvalue.default")
def _kthvalue(b: AtenBuilder, x: Value, k: Size, axis: int = -1, keepdim: bool = False) -> tuple[Value, ...]:
    shape = shape_of(x)
    if not shape:
        return _topk(b, x, k)
    axis = axis_of(axis, len(shape))
    return tuple(_dropped(b, slice_axis(b, v, axis, k - 1, 1), axis, keepdim) for v in _topk(b, x, k, axis, False))


@aten("aten.median.dim")
def _median(b: AtenBuilder, x: Value, axis: int, keepdim: bool = False) -> tuple[Value, ...]:
    # The lower of two in the middle; the first NaN if there is one.
    middle = _kthvalue(b, x, (_length(x, axis) - 1) // 2 + 1, axis, keepdim)
    dtype = tensor_type(x).dtype
    if not dtype.is_float:
        return middle
    greatest = _topk(b, x, 1, axis)
    if shape_of(x):
        greatest = tuple(_dropped(b, v, axis_of(axis, len(shape_of(x))), keepdim) for v in greatest)
    value, place, top, top_place = (arg(i, v.type.dtype) for i, v in enumerate((*middle, *greatest)))
    undefined = apply("ne", top, top)
    results = (select(undefined, top, value), select(undefined, top_place, place))
    return b.emit_many("map", (*middle, *greatest), {"outputs": results, "shape": None}, ("values", "indices"))


@aten("aten.median.default")
def _median_of_all(b: AtenBuilder, x: Value) -> Value:
    return _median(b, reshape(b, x, (dims.product(shape_of(x)),)), 0)[0]


@aten("aten.nanmedian.dim")
def _nanmedian(b: AtenBuilder, x: Value, axis: int, keepdim: bool = False) -> tuple[Value, ...]:
    shape, dtype = shape_of(x), tensor_type(x).dtype
    if not shape or not dtype.is_float:
        return _median(b, x, axis, keepdim)
    axis = axis_of(axis, len(shape))
    # Numbers come first: the middle one of so many as there are, or the first NaN.
    number = cast(apply("eq", arg(0, dtype), arg(0, dtype)), dtypes.int64)
    middle = (stat(0, dtypes.int64) - const(1, dtypes.int64)) / const(2, dtypes.int64)
    attrs = {"axes": (axis,), "keepdims": True, "stages": (Stage("sum", number),), "rows": (middle,)}
    (place,) = b.emit_many("reduce", (x,), attrs, ("middle",))
    found = (b.emit("gather_elements", v, place, axis=axis) for v in _sort(b, x, axis))
    return tuple(_dropped(b, value, axis, keepdim) for value in found)


@aten("aten.nanmedian.default")
def _nanmedian_of_all(b: AtenBuilder, x: Value) -> Value:
    return _nanmedian(b, reshape(b, x, (dims.product(shape_of(x)),)), 0)[0]


@aten("aten.mode.default")
def _mode(b: AtenBuilder, x: Value, axis: int = -1, keepdim: bool = False) -> tuple[Value, ...]:
    shape, dtype = shape_of(x), tensor_type(x).dtype
    if not shape:
        return _topk(b, x, 1)
    axis = axis_of(axis, len(shape))
    values, places = _sort(b, x, axis)
    # Equal elements lie together: the first of most is where the smallest most frequent value begins.
    columns = reshape(b, values, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    rows = reshape(b, values, (*shape[:axis], 1, *shape[axis:]))
    equal = cast(apply("eq", arg(0, dtype), arg(1, dtype)), dtypes.int64)
    attrs = {"axes": (axis + 1,), "keepdims": False, "stages": (Stage("sum", equal),), "rows": (stat(0, dtypes.int64),)}
    (counts,) = b.emit_many("reduce", (columns, rows), attrs, ("counts",))
    most = (Stage("max", arg(0, dtypes.int64)), Stage("argmax", arg(0, dtypes.int64)))
    last = stat(1, dtypes.int64) + stat(0, dtypes.int64) - const(1, dtypes.int64)
    attrs = {"axes": (axis,), "keepdims": True, "stages": most, "rows": (last,)}
    (place,) = b.emit_many("reduce", (counts,), attrs, ("last",))
    found = (b.emit("gather_elements", v, place, axis=axis) for v in (values, places))
    return tuple(_dropped(b, value, axis, keepdim) for value in found)


def _length(x: Value, axis: int) -> Size:
    shape = shape_of(x)
    return shape[axis] if shape else 1


def _dropped(b: AtenBuilder, value: Value, axis: int, keepdim: bool) -> Value:
    """`value` without `axis`, of extent 1, unless it is kept."""
    shape = shape_of(value)
    return value if keepdim else reshape(b, value, (*shape[:axis], *shape[axis + 1 :]))
