"""ATen calls that read through index tensors."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.expr import apply, const, select
from compiler.expr import index as position
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    axis_of,
    convert,
    pointwise,
    reshape,
    shape_of,
    tensor_type,
    transpose,
)
from compiler.frontends.aten.masks import select_by_mask, without_masks
from compiler.ir import Value

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
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) == 1 and is_mask(indices[axes[0]]) and tensor_type(indices[axes[0]]).rank:  # type: ignore[arg-type]
        return select_by_mask(b, x, indices[axes[0]], axes[0])  # type: ignore[arg-type]
    indices = without_masks(b, indices)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    at = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    rest = [axis for axis in range(tensor_type(x).rank) if axis not in axes]
    x = transpose(b, x, [*rest[:at], *axes, *rest[at:]])
    shape = shape_of(x)
    joined = shape[at : at + len(axes)]
    combined = combine_indices(b, [indices[axis] for axis in axes], joined)  # type: ignore[misc]
    flat = reshape(b, x, [*shape[:at], dims.product(joined), *shape[at + len(axes) :]])
    return b.emit("take", flat, combined, axis=at)


def is_mask(index: Value | None) -> bool:
    """Whether an index says of each element if it is read or written."""
    return index is not None and tensor_type(index).dtype == dtypes.boolean


def combine_indices(b: AtenBuilder, indices: Sequence[Value], sizes: Sequence[Size]) -> Value:
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


@aten("aten.gather.default")
def _gather(b: AtenBuilder, x: Value, axis: int, index: Value, sparse_grad: bool = False) -> Value:
    if not shape_of(x):
        return x
    return b.emit("gather_elements", x, index, axis=axis_of(axis, tensor_type(x).rank))


@aten("aten.unfold.default")
def _unfold(b: AtenBuilder, x: Value, axis: int, size: int, step: int) -> Value:
    """Windows along an axis: the axis counts windows, a new last axis the elements of one."""
    rank = tensor_type(x).rank
    axis = axis_of(axis, rank)
    count = (shape_of(x)[axis] - size) // step + 1
    positions = b.emit("map", outputs=(position(0) * step + position(1),), shape=(count, size))
    windows = b.emit("take", x, positions, axis=axis)
    return transpose(b, windows, [*(a for a in range(rank + 1) if a != axis + 1), axis + 1])
