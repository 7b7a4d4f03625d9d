"""How a strided copy is best walked, once its extents and strides are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONTIGUOUS, REPEATED, ELEMENTWISE, TRANSPOSED = range(4)

Axis = tuple[int, int, int]  # extent, byte stride of the source, byte stride of the target

SHORT_ROW = 4  # elements: a row this short is not worth a vector if another axis is longer


@dataclass(frozen=True)
class CopyPlan:
    """Rows of `length` elements at byte strides `from_stride` and `to_stride`, moved as `mode` says, at every position
    of the `walked` axes. TRANSPOSED: the last walked axis counts strips of tiles across an axis of extent `strip` and
    byte strides `strip_from` (one element) and `strip_to`; `strips` is how many elements of it a row covers.
    """

    mode: int
    length: int
    from_stride: int
    to_stride: int
    walked: tuple[Axis, ...]
    strip: int = 1
    strip_from: int = 0
    strip_to: int = 0
    strips: int = 1


def plan_copy(axes: Sequence[Axis], element: int, tile: int) -> CopyPlan:
    """The plan for `axes` of elements of `element` bytes with square tiles of `tile` elements (0: no tiles)."""
    if element == 16:
        axes, element = [*axes, (2, 8, 8)], 8
    merged = merge_axes(axes)
    row = merged[-1]
    rest = merged[:-1]
    mode = row_mode(*row, element)
    if tile and row[2] == element and mode == ELEMENTWISE and row[0] >= tile:
        across = [axis for axis in rest if axis[1] == element and axis[0] >= tile]
        if across:
            return _transposed(row, across[0], [axis for axis in rest if axis is not across[0]], tile)
    longest = max(merged, key=lambda axis: axis[0])
    if longest is not row and (mode == ELEMENTWISE or row[0] < SHORT_ROW):
        row, rest = longest, [axis for axis in merged if axis is not longest]
        mode = row_mode(*row, element)
    return CopyPlan(mode, *row, tuple(rest))


def _transposed(row: Axis, across: Axis, rest: list[Axis], tile: int) -> CopyPlan:
    extent, from_stride, to_stride = across
    strips = (-(-extent // tile), tile * from_stride, tile * to_stride)
    return CopyPlan(TRANSPOSED, *row, (*rest, strips), extent, from_stride, to_stride, tile)


def row_mode(length: int, from_stride: int, to_stride: int, element: int) -> int:
    """How a row at these byte strides is moved."""
    if length > 1 and to_stride == element:
        if from_stride == element:
            return CONTIGUOUS
        if from_stride == 0:
            return REPEATED
    return ELEMENTWISE


def merge_axes(axes: Sequence[Axis]) -> list[Axis]:
    """The same positions with fewer axes: none of extent 1, ordered by the target's strides, neighbours that are one
    run in both source and target joined. At least one axis is left."""
    kept = sorted((axis for axis in axes if axis[0] != 1), key=lambda axis: -abs(axis[2]))
    merged: list[Axis] = []
    for extent, from_stride, to_stride in kept:
        if merged and merged[-1][1] == extent * from_stride and merged[-1][2] == extent * to_stride:
            merged[-1] = (merged[-1][0] * extent, from_stride, to_stride)
        else:
            merged.append((extent, from_stride, to_stride))
    return merged or [(1, 0, 0)]
