"""ATen calls about which elements are true: how many there are is data, so their results' sizes are new names."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.expr import Expr, apply, const, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    convert,
    pointwise,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    transpose,
    unsupported,
)
from compiler.ir import Value
from compiler.ops.indexing import NOWHERE

Indices = Sequence[Value | None]


@aten("aten.nonzero.default", "aten.argwhere.default")
def _nonzero(b: AtenBuilder, x: Value) -> Value:
    return transpose(b, b.emit("nonzero", x), (1, 0))


@aten("aten.nonzero_numpy.default", "aten.where.default")
def nonzero_columns(b: AtenBuilder, x: Value) -> list[Value]:
    """For each axis of x, where along it the elements lie that are not zero; a 0-d tensor counts as one of one axis."""
    x = x if shape_of(x) else reshape(b, x, [1])
    places = b.emit("nonzero", x)
    count = shape_of(places)[1]
    return [reshape(b, slice_axis(b, places, 0, axis, 1), [count]) for axis in range(tensor_type(x).rank)]


@aten("aten.nonzero_static.default")
def _nonzero_static(b: AtenBuilder, x: Value, *, size: Size, fill_value: int = -1) -> Value:
    places = b.emit("nonzero", x)
    count = shape_of(places)[1]
    more = dims.maximum(size - count, 0)
    fill = b.constant(fill_value, "fill", dtypes.int64)
    padded = b.emit("pad", places, fill, before=(0, 0), after=(0, more), mode="constant")
    return transpose(b, slice_axis(b, padded, 1, 0, size), (1, 0))


@aten("aten.masked_select.default")
def _masked_select(b: AtenBuilder, x: Value, mask: Value) -> Value:
    shape = _joint_shape(x, mask)
    return b.emit("compress", _spread(b, x, shape), reshape(b, _spread(b, mask, shape), [dims.product(shape)]))


@aten("aten.masked_scatter.default")
def masked_scatter(b: AtenBuilder, x: Value, mask: Value, source: Value) -> Value:
    """x with the first elements of `source`, in order, where the mask is true. A run where they are too few is an
    error."""
    shape = _joint_shape(x, mask)
    elements = dims.product(shape)
    mask = reshape(b, _spread(b, mask, shape), [elements])
    flat = reshape(b, _spread(b, x, shape), [elements])
    return reshape(b, _written(b, flat, mask, reshape(b, source, [tensor_type(source).elements])), shape)


def put_through_mask(b: AtenBuilder, x: Value, mask: Value, values: Value) -> Value:
    """x with `values` [count, R..] (or what broadcasts to it) at the places of its leading axes where the mask [S..] is
    true, in row-major order."""
    shape, held = shape_of(x), shape_of(mask)
    inner = shape[len(held) :]
    places = dims.product(held)
    flat, line = reshape(b, x, [places, *inner]), reshape(b, mask, [places])
    given = shape_of(values)
    if len(given) > len(inner) and given[0] != 1:
        return reshape(b, _written(b, flat, line, _spread(b, values, (given[0], *inner))), shape)
    row = reshape(b, values, given[1:]) if len(given) > len(inner) else values
    column = reshape(b, line, [places, *[1] * len(inner)])
    return reshape(b, _chosen(b, column, row, flat), shape)


def _written(b: AtenBuilder, x: Value, mask: Value, rows: Value) -> Value:
    """x [A, R..] with `rows`, one after another, where the mask [A] is true."""
    column = reshape(b, mask, [shape_of(mask)[0], *[1] * (tensor_type(x).rank - 1)])
    return _chosen(b, column, _in_order(b, mask, rows), x)


def _in_order(b: AtenBuilder, mask: Value, rows: Value) -> Value:
    """For each element of the flat mask the row it would take: the n-th true element row n, others any."""
    whole = convert(b, mask, dtypes.int64)
    ranks = b.emit("cum_sum", whole, b.constant(0))
    count = shape_of(rows)[0]
    if not isinstance(count, int) or count == 0:
        # There may be no row at all, and elements that are not true have to read one.
        zeros = [0] * tensor_type(rows).rank
        rows = b.emit("pad", rows, None, before=tuple(zeros), after=(1, *zeros[1:]), mode="constant")

    def place(m: Expr, r: Expr, n: Expr) -> Expr:
        row = select(apply("le", r, n), r - 1, const(NOWHERE, r.dtype))  # past the last row, as take reports
        return select(m, row, const(0, r.dtype))

    places = pointwise(b, (mask, ranks, count), place, dtypes.int64, dtypes.int64, raw=1)
    return b.emit("take", rows, places, axis=0)


def _chosen(b: AtenBuilder, mask: Value, yes: Value, no: Value) -> Value:
    dtype = tensor_type(no).dtype
    return pointwise(b, (mask, yes, no), lambda m, p, q: select(m, p, q), dtype, dtype, raw=1)


def _joint_shape(x: Value, y: Value) -> tuple[Size, ...]:
    """The shape two tensors broadcast to."""
    ours, theirs = shape_of(x), shape_of(y)
    rank = max(len(ours), len(theirs))
    pairs = zip((1,) * (rank - len(ours)) + ours, (1,) * (rank - len(theirs)) + theirs, strict=True)
    return tuple(a if b == 1 else b if a == 1 or isinstance(b, int) else a for a, b in pairs)


def _spread(b: AtenBuilder, x: Value, shape: Sequence[Size]) -> Value:
    return x if shape_of(x) == tuple(shape) else b.emit("expand", x, b.sizes(tuple(shape)))


def without_masks(b: AtenBuilder, indices: Indices) -> list[Value | None]:
    """Indices with each boolean mask replaced by the places where it is true, an index for each of its axes."""
    found: list[Value | None] = []
    for index in indices:
        if index is None or tensor_type(index).dtype != dtypes.boolean:
            found.append(index)
        elif not tensor_type(index).rank:
            raise unsupported(b, "indexing by a 0-d boolean tensor; use torch.where or torch.cond")
        else:
            found += nonzero_columns(b, index)
    return found


def select_by_mask(b: AtenBuilder, x: Value, mask: Value, first: int) -> Value:
    """The slices of x where the mask, over the axes from `first` on, is true."""
    shape, rank = shape_of(x), tensor_type(mask).rank
    joined = dims.product(shape[first : first + rank])
    flat = reshape(b, x, [*shape[:first], joined, *shape[first + rank :]])
    return b.emit("compress", flat, reshape(b, mask, [dims.product(shape_of(mask))]), axis=first)
