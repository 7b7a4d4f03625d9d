"""ATen calls that count or repeat: unique values, bincount, repeat_interleave by a tensor; numbers out of tensors."""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.expr import apply, arg, const, stat
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
    unsupported,
)
from compiler.frontends.aten.numbers import AnyNumber, as_size, from_tensor
from compiler.ir import Value
from compiler.kernels import Stage


@aten("aten.item.default", "aten._local_scalar_dense.default")
def _item(b: AtenBuilder, x: Value) -> AnyNumber:
    """A tensor's only element as a Python number."""
    return from_tensor(b, reshape(b, x, []), b.signed)


@aten("aten._unique2.default")
def _unique(
    b: AtenBuilder, x: Value, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[Value | None, ...]:
    """The different elements in ascending order; NaNs count as equal, as in NumPy. What is not asked for is empty."""
    values, _, inverse, counts = b.emit_many("unique", (x,), {"sorted": 1}, ("unique", "", "inverse", "counts"))
    inverse = reshape(b, inverse, shape_of(x))
    return values, inverse if return_inverse else _nothing(b), counts if return_counts else _nothing(b)


def _nothing(b: AtenBuilder) -> Value:
    return b.constant(np.empty(0, np.int64), "nothing")


@aten("aten._unique.default")
def _unique_pair(
    b: AtenBuilder, x: Value, sorted: bool = True, return_inverse: bool = False
) -> tuple[Value | None, ...]:
    return _unique(b, x, sorted, return_inverse)[:2]


@aten("aten.unique_dim.default")
def _unique_dim(
    b: AtenBuilder,
    x: Value,
    axis: int,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[Value | None, ...]:
    attrs = {"sorted": 1, "axis": axis_of(axis, tensor_type(x).rank)}
    values, _, inverse, counts = b.emit_many("unique", (x,), attrs, ("unique", "", "inverse", "counts"))
    return values, inverse, counts


@aten("aten.unique_consecutive.default")
def _unique_consecutive(
    b: AtenBuilder, x: Value, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> tuple[Value, ...]:
    """Runs of equal neighbours: an element of each, the run each element belongs to, and how long runs are."""
    if dim is not None:
        return _runs(b, x, axis_of(dim, tensor_type(x).rank))
    values, inverse, counts = _runs(b, reshape(b, x, [tensor_type(x).elements]), 0)
    inverse = reshape(b, inverse, shape_of(x))
    return values, inverse if return_inverse else _nothing(b), counts if return_counts else _nothing(b)


@aten("aten.unique_dim_consecutive.default")
def _unique_dim_consecutive(b: AtenBuilder, x: Value, axis: int, *asked: bool, **named: bool) -> tuple[Value, ...]:
    return _runs(b, x, axis_of(axis, tensor_type(x).rank))


def _runs(b: AtenBuilder, x: Value, axis: int) -> tuple[Value, Value, Value]:
    length = shape_of(x)[axis]
    starts = _differs_from_last(b, x, axis, length)
    values = b.emit("compress", x, starts, axis=axis)
    runs = b.emit("cum_sum", convert(b, starts, dtypes.int64), b.constant(0))
    inverse = pointwise(b, (runs,), lambda r: r - 1, dtypes.int64, dtypes.int64)
    # The starts have the number of values for a size of their own: this says that the two are one.
    first = reshape(b, b.emit("nonzero", starts), [shape_of(values)[axis]])
    later = b.emit("pad", first, b.emit("reshape", b.sizes((length,)), b.sizes(())), before=(-1,), after=(1,))
    counts = pointwise(b, (later, first), lambda end, start: end - start, dtypes.int64, dtypes.int64)
    return values, inverse, counts


def _differs_from_last(b: AtenBuilder, x: Value, axis: int, length: Size) -> Value:
    """For each slice along an axis whether it is the first or another than the one before."""
    dtype = tensor_type(x).dtype
    places = b.emit("map", outputs=(apply("max", position(0) - 1, const(0, dtypes.int64)),), shape=(length,))
    before = b.emit("take", x, places, axis=axis)
    flags = pointwise(b, (x, before), lambda p, q: apply("ne", p, q), dtype, dtypes.boolean)
    others = tuple(a for a in range(tensor_type(x).rank) if a != axis)
    if others:
        stages = (Stage("any", arg(0, dtypes.boolean)),)
        rows = (stat(0, dtypes.boolean),)
        flags = b.emit("reduce", flags, axes=others, keepdims=False, stages=stages, rows=rows)
    first = apply("eq", position(0), const(0, dtypes.int64))
    return pointwise(b, (flags,), lambda f: apply("or", f, first), dtypes.boolean, dtypes.boolean)


@aten("aten.bincount.default")
def _bincount(b: AtenBuilder, x: Value, weights: Value | None = None, minlength: Size = 0) -> Value:
    """How often, or with what total weight, each number from 0 on appears in a vector."""
    held = tensor_type(x).dtype
    stage = Stage("max", arg(0, held))
    largest = b.emit("reduce", x, axes=(0,), keepdims=False, stages=(stage,), rows=(stat(0, held),))
    least = as_size(b, minlength)

    def size_of(largest: object, least: object) -> object:
        return apply("max", largest + 1, apply("max", least, const(0, dtypes.int64)))  # type: ignore[operator,arg-type]

    wide = convert(b, largest, dtypes.int64)
    count = pointwise(b, (wide, least), size_of, dtypes.int64, dtypes.int64)  # type: ignore[arg-type]
    size = as_size(b, from_tensor(b, count, signed=False))
    zero = b.constant(0, "zero", b.dtype)
    one = b.constant(1, "one", b.dtype)
    added = b.emit("expand", one, b.sizes(shape_of(x))) if weights is None else convert(b, weights, b.dtype)
    empty = b.emit("expand", zero, b.sizes((size,)))
    return b.emit("scatter_elements", empty, convert(b, x, dtypes.int64), added, axis=0, reduction="add")


@aten("aten.repeat_interleave.self_Tensor")
def _repeat_interleave(
    b: AtenBuilder, x: Value, repeats: Value, axis: int | None = None, *, output_size: Size | None = None
) -> Value:
    if axis is None:
        x, axis = reshape(b, x, [tensor_type(x).elements]), 0
    axis = axis_of(axis, tensor_type(x).rank)
    extent = shape_of(x)[axis]
    if shape_of(repeats) in ((), (1,)) and extent != 1:
        repeats = b.emit("expand", reshape(b, repeats, [1]), b.sizes((extent,)))
    return b.emit("take", x, _repeated_places(b, reshape(b, repeats, [extent]), output_size), axis=axis)


@aten("aten.repeat_interleave.Tensor")
def _repeated(b: AtenBuilder, repeats: Value, *, output_size: Size | None = None) -> Value:
    return convert(b, _repeated_places(b, repeats, output_size), b.dtype)


def _repeated_places(b: AtenBuilder, repeats: Value, size: Size | None) -> Value:
    """0 repeats[0] times, then 1 repeats[1] times, and so on: the number of ends at or before each place."""
    ends = b.emit("cum_sum", convert(b, repeats, dtypes.int64), b.constant(0))
    if size is None:
        stage, row = Stage("sum", arg(0, dtypes.int64)), stat(0, dtypes.int64)
        whole = convert(b, repeats, dtypes.int64)
        total = b.emit("reduce", whole, axes=(0,), keepdims=False, stages=(stage,), rows=(row,))
        size = as_size(b, from_tensor(b, total, signed=False))
    zeros = b.emit("expand", b.constant(0), b.sizes((size + 1,)))
    ones = b.emit("expand", b.constant(1), b.sizes(shape_of(repeats)))
    marks = b.emit("scatter_elements", zeros, ends, ones, axis=0, reduction="add")
    return slice_axis(b, b.emit("cum_sum", marks, b.constant(0)), 0, 0, size)


@aten("aten.is_nonzero.default")
def _is_nonzero(b: AtenBuilder, x: Value) -> AnyNumber:
    if tensor_type(x).elements != 1:
        raise unsupported(b, f"the truth of {tensor_type(x)}; expected one element")
    zero = const(0, tensor_type(x).dtype)
    flag = pointwise(b, (x,), lambda e: apply("ne", e, zero), tensor_type(x).dtype, dtypes.boolean)
    return from_tensor(b, reshape(b, flag, []), signed=False)
