"""How the operands of a product lie in memory, reduced to the fewest cases: what is compiled for, and the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Sizes = tuple[int, ...]


class Axis(NamedTuple):
    """A batch axis: its extent, and the strides of the left and the right factor in elements (0: it repeats)."""

    extent: int
    left: int
    right: int


@dataclass(frozen=True)
class Form:
    """What of a layout shapes a program. `repeats`: for each batch axis whether the left and the right factor repeat;
    `left`, `right`: which matrix axis of a factor is contiguous ("row": the last, "column": the one before); `swapped`:
    whether b is the left factor and a the right one, both transposed."""

    repeats: tuple[tuple[bool, bool], ...]
    left: str
    right: str
    swapped: bool


@dataclass(frozen=True)
class Layout:
    """A form, and the numbers of this case: extents of batch axes, M, K and N, strides in elements."""

    form: Form
    batch: tuple[Axis, ...]
    m: int
    k: int
    n: int
    left_step: int  # along the matrix axis that is not contiguous
    right_step: int


def readable(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Operands of a product that is not empty: themselves where kernels can read them, else copies."""
    a, b = _elements(a), _elements(b)
    layout = lay_out(a, b)
    if isinstance(layout, Layout):
        return a, b
    return _dense(a) if layout.a else a, _dense(b) if layout.b else b


def _elements(x: np.ndarray) -> np.ndarray:
    """`x` itself or a copy: of native byte order, aligned, its strides whole elements."""
    if not x.dtype.isnative:
        return np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    if not x.flags.aligned or any(stride % x.itemsize for stride in x.strides):
        return _dense(x)
    return x


def _dense(x: np.ndarray) -> np.ndarray:
    """A copy with contiguous rows; batch axes along which `x` repeats still do."""
    if 0 not in x.strides[:-2]:
        return x.copy(order="C")
    once = x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.strides[:-2])]
    return np.broadcast_to(once.copy(order="C"), x.shape)


class Copied(NamedTuple):
    """Which operands have no contiguous matrix axis and have to be copied."""

    a: bool
    b: bool


def lay_out(a: np.ndarray, b: np.ndarray) -> Layout | Copied:
    """The layout of a product that is not empty, or why there is none."""
    return _lay_out(a.shape, a.strides, a.itemsize, b.shape, b.strides, b.itemsize)


@lru_cache(maxsize=1024)
def _lay_out(
    a_shape: Sizes, a_strides: Sizes, a_bytes: int, b_shape: Sizes, b_strides: Sizes, b_bytes: int
) -> Layout | Copied:
    a_strides, b_strides = tuple(s // a_bytes for s in a_strides), tuple(s // b_bytes for s in b_strides)
    if len(a_shape) == 1:
        a_shape, a_strides = (1, *a_shape), (0, *a_strides)
    if len(b_shape) == 1:
        b_shape, b_strides = (*b_shape, 1), (*b_strides, 0)
    (m, k), n = a_shape[-2:], b_shape[-1]
    (a_row, a_column), (b_row, b_column) = a_strides[-2:], b_strides[-2:]
    batch = _merged(_batch(a_shape, a_strides, b_shape, b_strides))
    while batch and batch[-1].right == 0 and (m == 1 or batch[-1].left == m * a_row):  # [B, M, K] @ [K, N]
        extent, stride, _ = batch.pop()
        a_row, m = stride if m == 1 else a_row, extent * m
    # One column of results is the row of the transposed product, which wastes no panel on one column.
    swapped = n == 1 and m > 1
    if swapped:
        batch = [Axis(extent, right, left) for extent, left, right in batch]
        m, n = n, m
        a_row, a_column, b_row, b_column = b_column, b_row, a_column, a_row
    left, right = _contiguous(m, k, a_row, a_column), _contiguous(k, n, b_row, b_column)
    if not left or not right:
        return Copied(not right, not left) if swapped else Copied(not left, not right)
    form = Form(tuple(_repeats(axis) for axis in batch), left, right, swapped)
    left_step, right_step = a_row if left == "row" else a_column, b_row if right == "row" else b_column
    return Layout(form, tuple(batch), m, k, n, left_step, right_step)


def _batch(a_shape: Sizes, a_strides: Sizes, b_shape: Sizes, b_strides: Sizes) -> list[Axis]:
    """The batch axes longer than 1."""
    rank = max(len(a_shape), len(b_shape)) - 2

    def spread(values: Sizes, missing: int) -> Sizes:
        return (*[missing] * (rank + 2 - len(values)), *values[:-2])

    axes = []
    sides = spread(a_shape, 1), spread(a_strides, 0), spread(b_shape, 1), spread(b_strides, 0)
    for a_size, a_stride, b_size, b_stride in zip(*sides, strict=True):
        if max(a_size, b_size) > 1:
            axes.append(Axis(max(a_size, b_size), a_stride if a_size > 1 else 0, b_stride if b_size > 1 else 0))
    return axes


def _merged(axes: list[Axis]) -> list[Axis]:
    """Neighbouring axes as one where both factors step on evenly."""
    merged: list[Axis] = []
    for extent, left, right in axes:
        if merged and merged[-1].left == left * extent and merged[-1].right == right * extent:
            extent *= merged.pop().extent
        merged.append(Axis(extent, left, right))
    return merged


def _contiguous(rows: int, columns: int, row: int, column: int) -> str:
    """Which axis of a matrix is contiguous; "" if neither. An axis of extent 1 is, whatever its stride."""
    if column == 1 or (columns == 1 and row != 1):
        return "row"
    return "column" if row == 1 or rows == 1 else ""


def _repeats(axis: Axis) -> tuple[bool, bool]:
    """Whether the factors repeat along an axis. One of them has to bring its extent, if with stride 0."""
    return axis.left == 0 and axis.right != 0, axis.right == 0
