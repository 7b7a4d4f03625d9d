"""Strided views over symbolic sizes: what can be expressed without moving data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler import dims
from compiler.dims import Dim, Size
from compiler.kernels import View
from compiler.types import contiguous_strides


def dense(buffer: str, dtype: object, shape: Sequence[Size], order: Sequence[int] | None = None) -> View:
    """A view of a whole dense buffer; `order` lists the axes from outermost to innermost in memory."""
    order = tuple(range(len(shape))) if order is None else tuple(order)
    strides: list[Size] = [0] * len(shape)
    for axis, stride in zip(order, contiguous_strides([shape[a] for a in order]), strict=True):
        strides[axis] = stride
    return View(buffer, dtype, tuple(shape), tuple(strides))  # type: ignore[arg-type]


def is_dense(view: View) -> bool:
    """Whether the elements lie row-major without gaps (axes of extent 1 do not count)."""
    expected: Size = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected = expected * size
    return True


def transpose(view: View, perm: Sequence[int]) -> View:
    """Axes permuted as NumPy does."""
    return replace(view, shape=tuple(view.shape[p] for p in perm), strides=tuple(view.strides[p] for p in perm))


def broadcast(view: View, shape: Sequence[Size]) -> View:
    """NumPy broadcasting: new axes in front and axes of extent 1 repeat with stride 0."""
    lead = len(shape) - len(view.shape)
    strides: list[Size] = [0] * lead
    for size, stride, wanted in zip(view.shape, view.strides, shape[lead:], strict=True):
        strides.append(0 if size == 1 and wanted != 1 else stride)
    return replace(view, shape=tuple(shape), strides=tuple(strides))


def slice(view: View, starts: Sequence[Size], sizes: Sequence[Size], steps: Sequence[Size]) -> View:
    """A box of `sizes` elements an axis from `starts` in `steps` (negative steps walk backwards)."""
    offset = view.offset
    for start, stride in zip(starts, view.strides, strict=True):
        offset = offset + start * stride
    strides = tuple(stride * step for stride, step in zip(view.strides, steps, strict=True))
    return replace(view, shape=tuple(sizes), strides=strides, offset=offset)


def reshape(view: View, shape: Sequence[Size]) -> View | None:
    """The same elements under another shape, or None where no strides express it.

    Axes are matched in groups of equal products; within a group of old axes each must step over the next.
    """
    if is_dense(view):
        return replace(view, shape=tuple(shape), strides=contiguous_strides(shape))
    old = [(size, stride) for size, stride in zip(view.shape, view.strides, strict=True) if size != 1]
    strides: list[Size] = []
    position = 0
    axis = 0
    while axis < len(shape):
        if shape[axis] == 1:
            strides.append(0)
            axis += 1
            continue
        if position >= len(old):
            return None
        group, total = [axis], shape[axis]
        size, stride = old[position]
        position += 1
        # Grow the smaller side until the products agree.
        while total != size:
            if _divides(total, size) and axis + len(group) < len(shape):
                group.append(axis + len(group))
                total = total * shape[group[-1]]
            elif _divides(size, total) and position < len(old):
                next_size, next_stride = old[position]
                if stride != next_stride * next_size:
                    return None
                size, stride = size * next_size, next_stride
                position += 1
            else:
                return None
        inner = contiguous_strides([shape[g] for g in group])
        strides.extend(step * stride for step in inner)
        axis += len(group)
    if position != len(old):
        return None
    return replace(view, shape=tuple(shape), strides=tuple(strides))


def mergeable(outer_stride: Size, inner_size: Size, inner_stride: Size) -> bool:
    """Whether an outer axis continues where the inner one ends, so that both are one axis."""
    return outer_stride == inner_stride * inner_size


def memory_order(view: View) -> tuple[int, ...]:
    """The axes from outermost to innermost in memory; those that repeat (stride 0) stay where they are.

    Symbolic strides are ranked at a nominal size: the choice only steers layout, never correctness.
    """
    axes = range(len(view.shape))
    walked = [axis for axis in axes if view.strides[axis] != 0]
    ranked = iter(sorted(walked, key=lambda axis: -abs(nominal(view.strides[axis]))))
    return tuple(next(ranked) if view.strides[axis] != 0 else axis for axis in axes)


def nominal(size: Size) -> int:
    """`size` with every name taken as 64: for heuristics only."""
    return size.evaluate(_Nominal()) if isinstance(size, Dim) else size


class _Nominal(dict):  # type: ignore[type-arg]
    def __missing__(self, name: str) -> int:
        if name in ("min", "max"):  # functions in a size's text, not sizes
            raise KeyError(name)
        return 64


def _divides(a: Size, b: Size) -> bool:
    return dims.divide_exactly(b, a) is not None
