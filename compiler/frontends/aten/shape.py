"""ATen calls that rearrange: views, slices, joins, padding. Their sizes are ints and Dims, never nodes."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dims
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    axes_of,
    axis_of,
    convert,
    reshape,
    shape_of,
    slice_axis,
    swap_last,
    tensor_type,
    to_tensor,
    transpose,
)
from compiler.frontends.aten.numbers import AnyNumber, Number, as_size, slice_bound
from compiler.ir import Value
from compiler.ops.slicing import slice_axis as slice_bounds

SAME = ("clone", "alias", "detach", "lift_fresh", "lift_fresh_copy", "contiguous", "positive")


@aten(*(f"aten.{name}.default" for name in SAME))
def _same(b: AtenBuilder, x: Value) -> Value:
    return x


@aten("aten._to_copy.default", "aten.to.dtype", "prims.convert_element_type.default")
def _to_copy(b: AtenBuilder, x: Value, *ignored: object, dtype: DType | None = None, **more: object) -> Value:
    return convert(b, x, b.dtype)


@aten("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default", "aten._reshape_copy.default")
def _view(b: AtenBuilder, x: Value, shape: Sequence[Size]) -> Value:
    if any(isinstance(size, int) and size == -1 for size in shape):
        rest = dims.product(size for size in shape if not (isinstance(size, int) and size == -1))
        total = tensor_type(x).elements
        shape = [total // rest if isinstance(size, int) and size == -1 else size for size in shape]
    return reshape(b, x, shape)


@aten("aten.flatten.using_ints")
def _flatten(b: AtenBuilder, x: Value, first: int = 0, last: int = -1) -> Value:
    shape = shape_of(x)
    start, end = axis_of(first, len(shape)), axis_of(last, len(shape)) + 1
    return reshape(b, x, [*shape[:start], dims.product(shape[start:end]), *shape[end:]])


@aten("aten.unflatten.int")
def _unflatten(b: AtenBuilder, x: Value, axis: int, sizes: Sequence[Size]) -> Value:
    shape = shape_of(x)
    axis = axis_of(axis, len(shape))
    known = dims.product(size for size in sizes if size != -1)
    parts = [shape[axis] // known if size == -1 else size for size in sizes]
    return reshape(b, x, [*shape[:axis], *parts, *shape[axis + 1 :]])


@aten("aten.permute.default")
def _permute(b: AtenBuilder, x: Value, perm: Sequence[int]) -> Value:
    return transpose(b, x, [axis_of(axis, len(perm)) for axis in perm])


@aten("aten.transpose.int")
def _transpose(b: AtenBuilder, x: Value, first: int, second: int) -> Value:
    perm = list(range(tensor_type(x).rank))
    if perm:
        first, second = axis_of(first, len(perm)), axis_of(second, len(perm))
        perm[first], perm[second] = second, first
    return transpose(b, x, perm)


@aten("aten.t.default", "aten.numpy_T.default")
def _t(b: AtenBuilder, x: Value) -> Value:
    return swap_last(b, x) if tensor_type(x).rank == 2 else x


@aten("aten.unsqueeze.default")
def _unsqueeze(b: AtenBuilder, x: Value, axis: int) -> Value:
    shape = list(shape_of(x))
    shape.insert(axis % (len(shape) + 1), 1)
    return reshape(b, x, shape)


@aten("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")
def _squeeze(b: AtenBuilder, x: Value, axes: int | Sequence[int] | None = None) -> Value:
    shape = shape_of(x)
    chosen = axes_of(axes, len(shape))
    return reshape(b, x, [size for axis, size in enumerate(shape) if axis not in chosen or size != 1])


@aten("aten.expand.default")
def _expand(b: AtenBuilder, x: Value, shape: Sequence[Size], implicit: bool = False) -> Value:
    held = shape_of(x)
    new = len(shape) - len(held)
    wanted = [held[axis - new] if isinstance(size, int) and size == -1 else size for axis, size in enumerate(shape)]
    return x if tuple(wanted) == held else b.emit("expand", x, b.sizes(tuple(wanted)))


@aten("aten.expand_as.default")
def _expand_as(b: AtenBuilder, x: Value, other: Value) -> Value:
    return _expand(b, x, shape_of(other))


@aten("aten.repeat.default")
def _repeat(b: AtenBuilder, x: Value, counts: Sequence[Size]) -> Value:
    held = (*[1] * (len(counts) - len(shape_of(x))), *shape_of(x))
    split = [size for count, extent in zip(counts, held, strict=True) for size in (count, extent)]
    ones = [size for extent in held for size in (1, extent)]
    spread = b.emit("expand", reshape(b, x, ones), b.sizes(tuple(split)))
    return reshape(b, spread, [count * extent for count, extent in zip(counts, held, strict=True)])


@aten("aten.repeat_interleave.self_int")
def _repeat_interleave(
    b: AtenBuilder, x: Value, count: Size, axis: int | None = None, *, output_size: Size | None = None
) -> Value:
    if axis is None:
        x, axis = reshape(b, x, [tensor_type(x).elements]), 0
    shape = list(shape_of(x))
    axis = axis_of(axis, len(shape))
    spread = b.emit(
        "expand",
        reshape(b, x, [*shape[: axis + 1], 1, *shape[axis + 1 :]]),
        b.sizes((*shape[: axis + 1], count, *shape[axis + 1 :])),
    )
    shape[axis] = shape[axis] * count
    return reshape(b, spread, shape)


@aten("aten.slice.Tensor", numbers=True)
def _slice(
    b: AtenBuilder, x: Value, axis: int = 0, start: AnyNumber | None = None, end: AnyNumber | None = None, step: int = 1
) -> Value:
    axis = axis_of(axis, tensor_type(x).rank)
    extent = shape_of(x)[axis]
    begin = 0 if start is None else slice_bound(b, start, extent)
    first, size = slice_bounds(begin, extent if end is None else slice_bound(b, end, extent), step, extent)
    return slice_axis(b, x, axis, first, size, step)


@aten("aten.select.int", numbers=True)
def _select(b: AtenBuilder, x: Value, axis: int, index: AnyNumber) -> Value:
    shape = shape_of(x)
    axis = axis_of(axis, len(shape))
    if isinstance(index, Number):
        return b.emit("take", x, index.value(), axis=axis)
    place: Size = as_size(b, index)
    if isinstance(place, int) and place < 0:
        place = shape[axis] + place
    return reshape(b, slice_axis(b, x, axis, place, 1), [*shape[:axis], *shape[axis + 1 :]])


@aten("aten.narrow.default")
def _narrow(b: AtenBuilder, x: Value, axis: int, start: Size, length: Size) -> Value:
    return slice_axis(b, x, axis_of(axis, tensor_type(x).rank), start, length)


@aten("aten.split_with_sizes.default", "aten.split_with_sizes_copy.default")
def _split_with_sizes(b: AtenBuilder, x: Value, sizes: Sequence[Size], axis: int = 0) -> tuple[Value, ...]:
    axis, start = axis_of(axis, tensor_type(x).rank), 0
    parts = []
    for size in sizes:
        parts.append(slice_axis(b, x, axis, start, size))
        start = start + size  # type: ignore[assignment]
    return tuple(parts)


@aten("aten.split.Tensor")
def _split(b: AtenBuilder, x: Value, size: Size, axis: int = 0) -> tuple[Value, ...]:
    axis = axis_of(axis, tensor_type(x).rank)
    extent = shape_of(x)[axis]
    # A symbolic extent has as many parts as torch saw; all but the last are full.
    count = len(b.dtypes)
    return _split_with_sizes(b, x, [*[size] * (count - 1), extent - size * (count - 1)], axis)


@aten("aten.chunk.default")
def _chunk(b: AtenBuilder, x: Value, count: int, axis: int = 0) -> tuple[Value, ...]:
    extent = shape_of(x)[axis_of(axis, tensor_type(x).rank)]
    return _split(b, x, dims.ceil_div(extent, count), axis)


@aten("aten.unbind.int")
def _unbind(b: AtenBuilder, x: Value, axis: int = 0) -> tuple[Value, ...]:
    return tuple(_select(b, x, axis, i) for i in range(len(b.dtypes)))


@aten("aten.cat.default")
def _cat(b: AtenBuilder, tensors: Sequence[Value], axis: int = 0) -> Value:
    # torch skips 1-d empty tensors whatever the others' rank.
    kept = [x for x in tensors if shape_of(x) != (0,)] or list(tensors[:1])
    operands = [convert(b, x, b.dtype) for x in kept]
    axis = axis_of(axis, tensor_type(operands[0]).rank)
    return operands[0] if len(operands) == 1 else b.emit("concat", *operands, axis=axis)


@aten("aten.stack.default")
def _stack(b: AtenBuilder, tensors: Sequence[Value], axis: int = 0) -> Value:
    axis = axis % (tensor_type(tensors[0]).rank + 1)
    return _cat(b, [_unsqueeze(b, x, axis) for x in tensors], axis)


@aten("aten.flip.default")
def _flip(b: AtenBuilder, x: Value, axes: Sequence[int]) -> Value:
    shape = shape_of(x)
    chosen = {axis_of(axis, len(shape)) for axis in axes}
    if not chosen:
        return x
    starts = tuple(size - 1 if axis in chosen else 0 for axis, size in enumerate(shape))
    steps = tuple(-1 if axis in chosen else 1 for axis in range(len(shape)))
    return b.emit("slice", x, starts=starts, sizes=shape, steps=steps)


@aten("aten.roll.default")
def _roll(b: AtenBuilder, x: Value, shifts: int | Sequence[int], axes: int | Sequence[int] = ()) -> Value:
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    axes = [axes] if isinstance(axes, int) else list(axes)
    if not axes:
        return reshape(b, _roll(b, reshape(b, x, [tensor_type(x).elements]), shifts, [0]), shape_of(x))
    for shift, axis in zip(shifts, axes, strict=True):
        axis = axis_of(axis, tensor_type(x).rank)
        extent = shape_of(x)[axis]
        if extent == 0 or shift == 0:
            continue
        start = (extent - shift) % extent  # type: ignore[operator]
        tail, head = slice_axis(b, x, axis, start, extent - start), slice_axis(b, x, axis, 0, start)
        x = b.emit("concat", tail, head, axis=axis)
    return x


@aten("aten.constant_pad_nd.default")
def _constant_pad(b: AtenBuilder, x: Value, widths: Sequence[Size], value: float = 0) -> Value:
    return _pad(b, x, widths, "constant", value)


@aten(*(f"aten.reflection_pad{n}d.default" for n in (1, 2, 3)))
def _reflection_pad(b: AtenBuilder, x: Value, widths: Sequence[Size]) -> Value:
    return _pad(b, x, widths, "reflect")


@aten(*(f"aten.replication_pad{n}d.default" for n in (1, 2, 3)))
def _replication_pad(b: AtenBuilder, x: Value, widths: Sequence[Size]) -> Value:
    return _pad(b, x, widths, "edge")


def _pad(b: AtenBuilder, x: Value, widths: Sequence[Size], mode: str, value: float = 0) -> Value:
    # torch lists (before, after) pairs from the last axis backwards.
    rank = tensor_type(x).rank
    kept = [0] * (rank - len(widths) // 2)
    before, after = (*kept, *widths[-2::-2]), (*kept, *widths[-1::-2])
    fill = to_tensor(b, value, b.dtype) if value else None
    return b.emit("pad", x, fill, before=before, after=after, mode=mode)


@aten("aten.diagonal.default")
def _diagonal(b: AtenBuilder, x: Value, offset: int = 0, first: int = 0, second: int = 1) -> Value:
    rank = tensor_type(x).rank
    first, second = axis_of(first, rank), axis_of(second, rank)
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    x = transpose(b, x, [*rest, first, second])
    x = slice_axis(b, x, rank - 2, max(-offset, 0), shape_of(x)[-2] - max(-offset, 0))
    x = slice_axis(b, x, rank - 1, max(offset, 0), shape_of(x)[-1] - max(offset, 0))
    *outer, rows, columns = shape_of(x)
    size = dims.minimum(rows, columns)
    # Over the flattened last two axes the diagonal steps by columns + 1.
    wide = slice_axis(b, x, rank - 2, 0, size)
    flat = reshape(b, wide, [*outer, size * columns])
    spaced = slice_axis(b, flat, rank - 2, 0, size, columns + 1)  # type: ignore[arg-type]
    return spaced


@aten("aten.pixel_shuffle.default")
def _pixel_shuffle(b: AtenBuilder, x: Value, factor: int) -> Value:
    *outer, channels, rows, columns = shape_of(x)
    split = reshape(b, x, [*outer, channels // (factor * factor), factor, factor, rows, columns])
    n = len(outer)
    mixed = transpose(b, split, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return reshape(b, mixed, [*outer, channels // (factor * factor), rows * factor, columns * factor])
