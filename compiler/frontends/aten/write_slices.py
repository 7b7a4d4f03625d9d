"""ATen calls that write a slice of a tensor."""

from __future__ import annotations

from compiler import dtypes
from compiler.dims import Size
from compiler.expr import Expr, apply, const, select
from compiler.expr import index as position
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    axis_of,
    convert,
    pointwise,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    to_tensor,
)
from compiler.ir import Value
from compiler.ops.slicing import slice_axis as slice_bounds


@aten("aten.slice_scatter.default")
def _slice_scatter(
    b: AtenBuilder,
    x: Value,
    source: Value,
    axis: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: int = 1,
) -> Value:
    axis = axis_of(axis, tensor_type(x).rank)
    extent = shape_of(x)[axis]
    first, size = slice_bounds(0 if start is None else start, extent if end is None else end, step, extent)
    if step == 1 or size == 0:
        return _overwrite(b, x, source, axis, first, size)
    # Every position reads the source at its (clamped) place in the slice; positions between keep x.
    source = _fit(b, source, x, axis, size)
    line = b.emit("map", outputs=(position(0),), shape=(extent,))
    place = pointwise(b, (line, first, size), lambda p, s, n: _clamped((p - s) / step, n), dtypes.int64, dtypes.int64)
    spread = b.emit("take", source, place, axis=axis)

    def build(old: Expr, new: Expr, s: Expr, n: Expr) -> Expr:
        offset = position(axis) - s
        inside = apply("eq", offset, _clamped(offset / step, n) * step)
        return select(inside, new, old)

    return pointwise(b, (x, spread, to_tensor(b, first), to_tensor(b, size)), build, raw=4)


def _clamped(position: Expr, size: Expr) -> Expr:
    return apply("max", apply("min", position, size - 1), const(0, position.dtype))


@aten("aten.select_scatter.default")
def _select_scatter(b: AtenBuilder, x: Value, source: Value, axis: int, index: Size) -> Value:
    shape = shape_of(x)
    axis = axis_of(axis, len(shape))
    if isinstance(index, int) and index < 0:
        index = shape[axis] + index
    row = reshape(b, source, [*shape[:axis], 1, *shape[axis + 1 :]])
    return _overwrite(b, x, row, axis, index, 1)


def _overwrite(b: AtenBuilder, x: Value, source: Value, axis: int, start: Size, size: Size) -> Value:
    extent = shape_of(x)[axis]
    source = _fit(b, source, x, axis, size)
    after = extent - (start + size)
    parts = [
        *([slice_axis(b, x, axis, 0, start)] if start != 0 else []),
        source,
        *([slice_axis(b, x, axis, start + size, after)] if after != 0 else []),
    ]
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=axis)


def _fit(b: AtenBuilder, source: Value, x: Value, axis: int, size: Size) -> Value:
    """What is written into `size` places of x along `axis`, in x's type and broadcast to its other axes."""
    source = convert(b, source, tensor_type(x).dtype)
    wanted = (*shape_of(x)[:axis], size, *shape_of(x)[axis + 1 :])
    return source if shape_of(source) == wanted else b.emit("expand", source, b.sizes(wanted))
