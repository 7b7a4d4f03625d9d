"""ATen calls that read or write through index tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.expr import Expr, apply, const, select
from compiler.expr import index as position
from compiler.frontends.aten.base import (
    AtenBuilder,
    Operand,
    aten,
    axis_of,
    convert,
    pointwise,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    to_tensor,
    transpose,
    unsupported,
)
from compiler.ir import Value
from compiler.ops.slicing import slice_axis as slice_bounds

Indices = Sequence[Value | None]


@aten("aten.embedding.default")
def _embedding(b: AtenBuilder, weight: Value, indices: Value, *ignored: object) -> Value:
    return b.emit("take", weight, indices, axis=0)


@aten("aten.index_select.default")
def _index_select(b: AtenBuilder, x: Value, axis: int, index: Value) -> Value:
    if not shape_of(x):
        return x
    if not shape_of(index):
        index = reshape(b, index, [1])
    return b.emit("take", x, index, axis=axis_of(axis, tensor_type(x).rank))


@aten("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _index(b: AtenBuilder, x: Value, indices: Indices) -> Value:
    """Advanced indexing as NumPy's: the indexed axes become one, read by one combined index."""
    axes = _indexed_axes(b, indices)
    at = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    rest = [axis for axis in range(tensor_type(x).rank) if axis not in axes]
    x = transpose(b, x, [*rest[:at], *axes, *rest[at:]])
    shape = shape_of(x)
    joined = shape[at : at + len(axes)]
    combined = _combine(b, [indices[axis] for axis in axes], joined)  # type: ignore[misc]
    flat = reshape(b, x, [*shape[:at], dims.product(joined), *shape[at + len(axes) :]])
    return b.emit("take", flat, combined, axis=at)


def _indexed_axes(b: AtenBuilder, indices: Indices) -> list[int]:
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    for axis in axes:
        if tensor_type(indices[axis]).dtype == dtypes.boolean:  # type: ignore[arg-type]
            raise unsupported(
                b, "indexing by a boolean mask: the result's size is data; use torch.where or masked_fill"
            )
    return axes


def _combine(b: AtenBuilder, indices: Sequence[Value], sizes: Sequence[Size]) -> Value:
    """One index into joined axes of `sizes` from an index into each; negative ones count from the end."""
    if len(indices) == 1:
        return convert(b, indices[0], dtypes.int64)
    total: Value | None = None
    for index, size in zip(indices, sizes, strict=True):
        zero = const(0, dtypes.int64)
        from_front = pointwise(
            b,
            (index, size),
            lambda i, n, zero=zero: select(apply("lt", i, zero), i + n, i),
            dtypes.int64,
            dtypes.int64,
        )
        if total is None:
            total = from_front
        else:
            total = pointwise(b, (total, size, from_front), lambda t, n, i: t * n + i, dtypes.int64, dtypes.int64)
    assert total is not None
    return total


@aten("aten.index_put.default", "aten._unsafe_index_put.default", "aten._index_put_impl.default")
def _index_put(
    b: AtenBuilder, x: Value, indices: Indices, values: Value, accumulate: bool = False, unsafe: bool = False
) -> Value:
    """Writes through indices of leading axes; a boolean mask works where one scalar is written."""
    values = convert(b, values, b.dtype)
    first = indices[0] if len(indices) == 1 else None
    if first is not None and tensor_type(first).dtype == dtypes.boolean and not accumulate:
        if tensor_type(values).elements != 1:
            raise unsupported(b, "writing a tensor through a boolean mask: use torch.where")
        trailing = tensor_type(x).rank - tensor_type(first).rank
        mask = reshape(b, first, [*shape_of(first), *[1] * trailing])
        return pointwise(b, (mask, reshape(b, values, []), x), lambda m, v, e: select(m, v, e), b.dtype, raw=1)
    axes = _indexed_axes(b, indices)
    rank = tensor_type(x).rank
    rest = [axis for axis in range(rank) if axis not in axes]
    if rest[: axes[0]] != list(range(axes[0])) or axes != list(range(axes[0], axes[0] + len(axes))):
        raise unsupported(b, f"index_put through axes {axes}, which are not next to each other")
    perm = [*axes, *rest]
    moved = transpose(b, x, perm)
    joined, outer = shape_of(moved)[: len(axes)], shape_of(moved)[len(axes) :]
    combined = _combine(b, [indices[axis] for axis in axes], joined)  # type: ignore[misc]
    # torch's values have the index axes where the indexed axes were; scatter_nd wants them first.
    index_rank = tensor_type(combined).rank
    before = axes[0]
    full = (*outer[:before], *shape_of(combined), *outer[before:])
    spread = values if shape_of(values) == full else b.emit("expand", values, b.sizes(full))
    order = [*range(before, before + index_rank), *range(before), *range(before + index_rank, len(full))]
    updates = transpose(b, spread, order)
    flat = reshape(b, moved, [dims.product(joined), *outer])
    rows = reshape(b, combined, [*shape_of(combined), 1])
    written = b.emit("scatter_nd", flat, rows, updates, reduction="add" if accumulate else "none")
    inverse = [int(i) for i in np.argsort(perm)]
    return transpose(b, reshape(b, written, [*joined, *outer]), inverse)


@aten("aten.gather.default")
def _gather(b: AtenBuilder, x: Value, axis: int, index: Value, sparse_grad: bool = False) -> Value:
    if not shape_of(x):
        return x
    return b.emit("gather_elements", x, index, axis=axis_of(axis, tensor_type(x).rank))


@aten("aten.scatter.src", "aten.scatter.value", "aten.scatter.reduce", "aten.scatter.value_reduce")
def _scatter(b: AtenBuilder, x: Value, axis: int, index: Value, source: Operand, *, reduce: str = "none") -> Value:
    return _scatter_elements(b, x, axis, index, source, {"multiply": "mul"}.get(reduce, reduce))


@aten("aten.scatter_add.default")
def _scatter_add(b: AtenBuilder, x: Value, axis: int, index: Value, source: Value) -> Value:
    return _scatter_elements(b, x, axis, index, source, "add")


@aten("aten.scatter_reduce.two")
def _scatter_reduce(
    b: AtenBuilder, x: Value, axis: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    reduction = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}.get(reduce)
    if reduction is None or not include_self:
        raise unsupported(
            b, f"scatter_reduce {reduce} with include_self={include_self}; expected sum, prod, amax or amin"
        )
    return _scatter_elements(b, x, axis, index, source, reduction)


def _scatter_elements(b: AtenBuilder, x: Value, axis: int, index: Value, source: Operand, reduction: str) -> Value:
    shape = shape_of(index)
    updates = to_tensor(b, source, b.dtype)
    if shape_of(updates) == ():
        updates = b.emit("expand", updates, b.sizes(shape)) if shape else updates
    for i, size in enumerate(shape):
        # torch lets the source be larger than the index and reads its first elements.
        updates = slice_axis(b, updates, i, 0, size)
    return b.emit("scatter_elements", x, index, updates, axis=axis_of(axis, tensor_type(x).rank), reduction=reduction)


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


@aten("aten.unfold.default")
def _unfold(b: AtenBuilder, x: Value, axis: int, size: int, step: int) -> Value:
    """Windows along an axis: the axis counts windows, a new last axis the elements of one."""
    rank = tensor_type(x).rank
    axis = axis_of(axis, rank)
    count = (shape_of(x)[axis] - size) // step + 1
    positions = b.emit("map", outputs=(position(0) * step + position(1),), shape=(count, size))
    windows = b.emit("take", x, positions, axis=axis)
    return transpose(b, windows, [*(a for a in range(rank + 1) if a != axis + 1), axis + 1])


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
