"""ATen calls that write through index tensors, and those that combine what is written to one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler import dims
from compiler.expr import Expr, apply, const, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    Operand,
    aten,
    axis_of,
    compute_type,
    convert,
    pointwise,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    to_tensor,
    transpose,
)
from compiler.frontends.aten.index import combine_indices, is_mask
from compiler.frontends.aten.masks import put_through_mask, without_masks
from compiler.ir import Value
from compiler.ops.core_compute import identity

Indices = Sequence[Value | None]

# torch's names of reductions: ONNX's, and the reduction whose result over nothing is their neutral element
REDUCTIONS = {
    "sum": ("add", "sum"), "prod": ("mul", "prod"), "amax": ("max", "max"), "amin": ("min", "min"),
    "mean": ("add", "sum"),
}  # fmt: skip


@aten("aten.index_put.default", "aten._unsafe_index_put.default", "aten._index_put_impl.default")
def _index_put(
    b: AtenBuilder, x: Value, indices: Indices, values: Value, accumulate: bool = False, unsafe: bool = False
) -> Value:
    """x with values written through indices; those of axes not next to each other give the first axes of `values`."""
    values = convert(b, values, b.dtype)
    if len(indices) == 1 and is_mask(indices[0]) and not accumulate:
        return put_through_mask(b, x, indices[0], values)
    indices = without_masks(b, indices)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    rest = [axis for axis in range(tensor_type(x).rank) if axis not in axes]
    perm = [*axes, *rest]
    moved = transpose(b, x, perm)
    joined, outer = shape_of(moved)[: len(axes)], shape_of(moved)[len(axes) :]
    combined = combine_indices(b, [indices[axis] for axis in axes], joined)  # type: ignore[misc]
    # torch's values have the index axes where the indexed axes were; scatter_nd wants them first.
    index_rank = tensor_type(combined).rank
    before = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    full = (*outer[:before], *shape_of(combined), *outer[before:])
    spread = values if shape_of(values) == full else b.emit("expand", values, b.sizes(full))
    order = [*range(before, before + index_rank), *range(before), *range(before + index_rank, len(full))]
    updates = transpose(b, spread, order)
    flat = reshape(b, moved, [dims.product(joined), *outer])
    rows = reshape(b, combined, [*shape_of(combined), 1])
    written = b.emit("scatter_nd", flat, rows, updates, reduction="add" if accumulate else "none")
    inverse = [int(i) for i in np.argsort(perm)]
    return transpose(b, reshape(b, written, [*joined, *outer]), inverse)


@aten("aten.put.default")
def _put(b: AtenBuilder, x: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    count = tensor_type(index).elements
    flat = reshape(b, x, [tensor_type(x).elements])
    places, updates = reshape(b, index, [count, 1]), reshape(b, source, [count])
    written = b.emit("scatter_nd", flat, places, updates, reduction="add" if accumulate else "none")
    return reshape(b, written, shape_of(x))


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
    """x[i, index[i, j, k], k] reduced with source[i, j, k] for axis 1; without `include_self` x only counts where
    nothing is written."""
    reduction, neutral = REDUCTIONS[reduce]
    table = x
    if not include_self:
        nothing = float(identity(neutral, b.dtype.numpy)) if b.dtype.is_float else identity(neutral, b.dtype.numpy)
        table = _scatter_elements(b, x, axis, index, b.constant(nothing, "neutral", b.dtype), "none")
    total = _scatter_elements(b, table, axis, index, source, reduction)
    if reduce != "mean":
        return total
    # Counted in floats where the sums are floats: kernels then read the repeated one in place.
    held = compute_type(b.dtype)
    count = b.emit("map", outputs=(const(int(include_self), held),), shape=shape_of(x), hint="count")
    return _quotient(b, total, _scatter_elements(b, count, axis, index, b.constant(1, "one", held), "add"))


def _quotient(b: AtenBuilder, total: Value, count: Value) -> Value:
    """Sums over counts (of none: the sum itself), rounded down if they are integers."""
    held = tensor_type(total).dtype

    def build(t: Expr, n: Expr) -> Expr:
        n = apply("max", n, const(1, n.dtype))
        if n.dtype.is_float:
            return t / n
        return t / n - select(apply("lt", apply("rem", t, n), const(0, t.dtype)), const(1, t.dtype), const(0, t.dtype))

    return pointwise(b, (total, count), build, result=held)


def _scatter_elements(b: AtenBuilder, x: Value, axis: int, index: Value, source: Operand, reduction: str) -> Value:
    if not shape_of(x):  # a 0-d tensor is indexed like one of one element
        lone = [reshape(b, v, [1]) if isinstance(v, Value) else v for v in (x, index, source)]
        return reshape(b, _scatter_elements(b, lone[0], 0, lone[1], lone[2], reduction), [])  # type: ignore[arg-type]
    shape = shape_of(index)
    updates = to_tensor(b, source, tensor_type(x).dtype)
    if shape_of(updates) == ():
        updates = b.emit("expand", updates, b.sizes(shape))
    for i, size in enumerate(shape):
        # torch lets the source be larger than the index and reads its first elements.
        updates = slice_axis(b, updates, i, 0, size)
    return b.emit("scatter_elements", x, index, updates, axis=axis_of(axis, tensor_type(x).rank), reduction=reduction)


def along(b: AtenBuilder, index: Value, axis: int, source: Value) -> Value:
    """A vector of places along an axis as places of the elements of `source`: repeated, which moves nothing."""
    shape = shape_of(source)
    line = reshape(b, index, [shape[axis] if a == axis else 1 for a in range(len(shape))])
    return line if shape_of(line) == shape else b.emit("expand", line, b.sizes(shape))


@aten("aten.index_add.default")
def _index_add(b: AtenBuilder, x: Value, axis: int, index: Value, source: Value, *, alpha: float = 1) -> Value:
    axis, source = axis_of(axis, tensor_type(x).rank), convert(b, source, b.dtype)
    if alpha != 1:
        source = pointwise(b, (source,), lambda e: e * alpha)
    if not shape_of(x):
        return _scatter_elements(b, x, 0, index, source, "add")
    return _scatter_elements(b, x, axis, along(b, index, axis, source), source, "add")


@aten("aten.index_reduce.default")
def _index_reduce(
    b: AtenBuilder, x: Value, axis: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    axis = axis_of(axis, tensor_type(x).rank)
    places = along(b, index, axis, source) if shape_of(x) else index
    return _scatter_reduce(b, x, axis, places, source, reduce, include_self=include_self)
