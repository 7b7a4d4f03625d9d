"""Views against NumPy: the same elements on concrete data, with numbers and with named sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from compiler import dims, dtypes, views
from compiler.dims import Dim, Size, symbol
from compiler.kernels import View
from tests.compiler.random_graphs import MAX_ELEMENTS

EXTENTS = st.sampled_from([1, 2, 3, 4, 6, 0])


def look(view: View, memory: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    """The array a view of `memory` stands for."""
    shape = [dims.evaluate(size, sizes) for size in view.shape]
    strides = [dims.evaluate(stride, sizes) * memory.itemsize for stride in view.strides]
    offset = dims.evaluate(view.offset, sizes)
    if 0 in shape:
        return np.zeros(shape, memory.dtype)
    return as_strided(memory[offset:], shape, strides)


class Pair:
    """A view and the NumPy array it should be; `twin` shares memory with the original, so copies show."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.sizes = {name: draw(EXTENTS) for name in ("n", "m")}
        shape: list[Size] = draw(st.lists(EXTENTS | st.sampled_from([symbol("n"), symbol("m")]), max_size=4))
        order = draw(st.permutations(range(len(shape))))
        self.view = views.dense("x", dtypes.int64, shape, order)
        extents = [self.number(shape[a]) for a in order]
        self.memory = np.arange(int(np.prod(extents)) or 1)
        dense = self.memory[: int(np.prod(extents))].reshape(extents)
        self.array = dense.transpose(np.argsort(order)) if shape else dense

    def number(self, size: Size) -> int:
        return dims.evaluate(size, self.sizes)

    def step(self) -> None:
        rank = len(self.view.shape)
        kind = self.draw(st.sampled_from(("transpose", "slice", "broadcast", "reshape")))
        if kind == "transpose":
            perm = self.draw(st.permutations(range(rank)))
            self.view, self.array = views.transpose(self.view, perm), self.array.transpose(perm)
        elif kind == "broadcast":
            lead = self.draw(st.lists(EXTENTS, max_size=1))
            wide = [self.draw(EXTENTS) if size == 1 else size for size in self.view.shape]
            shape = [*lead, *wide]
            numbers = [self.number(size) for size in shape]
            assume(np.prod(numbers) <= MAX_ELEMENTS)
            self.view, self.array = views.broadcast(self.view, shape), np.broadcast_to(self.array, numbers)
        elif kind == "slice":
            boxes = [self.box(size) for size in self.view.shape]
            starts, sizes, steps = ([box[i] for box in boxes] for i in range(3))
            for axis, (start, size, step) in enumerate(boxes):
                first, count = self.number(start), self.number(size)
                picked = np.moveaxis(self.array, axis, 0)
                stop = first + count * step
                picked = picked[first : stop if stop >= 0 else None : step] if count else picked[:0]
                self.array = np.moveaxis(picked, 0, axis)
            self.view = views.slice(self.view, starts, sizes, steps)
        else:
            self.reshape(reshaped(self.draw, list(self.view.shape)))

    def box(self, size: Size) -> tuple[Size, Size, int]:
        if isinstance(size, Dim):
            return (size - 1, size, -1) if self.draw(st.booleans()) and self.number(size) else (0, size, 1)
        step = self.draw(st.sampled_from((1, 2, -1, -2)))
        count = self.draw(st.integers(0, -(-size // abs(step))))
        low = self.draw(st.integers(0, max(size - 1 - (max(count, 1) - 1) * abs(step), 0)))
        return low if step > 0 else low + (max(count, 1) - 1) * abs(step), count, step

    def reshape(self, shape: Sequence[Size]) -> None:
        found = views.reshape(self.view, shape)
        numbers = [self.number(size) for size in shape]
        wanted = self.array.reshape(numbers)
        if found is not None:
            self.view, self.array = found, wanted
        elif dims.is_static(self.view.shape) and dims.is_static(shape) and wanted.size:
            assert not np.shares_memory(wanted, self.array), f"{self.view} as {shape} is a view"

    def check(self) -> None:
        assert tuple(self.number(size) for size in self.view.shape) == self.array.shape
        np.testing.assert_array_equal(look(self.view, self.memory, self.sizes), self.array)
        if views.is_dense(self.view) and self.array.size:
            assert self.array.flags.c_contiguous


def reshaped(draw: Callable[[Any], Any], shape: list[Size]) -> list[Size]:
    """Another shape of as many elements: axes merged, split, inserted or dropped."""
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("merge", "split", "insert", "drop")))
        at = draw(st.integers(0, max(len(shape) - 1, 0)))
        if kind == "merge" and at + 1 < len(shape):
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        elif kind == "split" and shape:
            factor = draw(st.sampled_from([2, 3, symbol("n")]))
            rest = dims.divide_exactly(shape[at], factor)
            if rest is not None:
                shape[at : at + 1] = draw(st.permutations([factor, rest]))
        elif kind == "insert":
            shape.insert(at, 1)
        elif kind == "drop" and 1 in shape:
            shape.remove(1)
    return shape


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_chains_of_views(data: st.DataObject) -> None:
    pair = Pair(data.draw)
    for _ in range(data.draw(st.integers(1, 4))):
        pair.step()
        pair.check()


def test_named_sizes_merge_and_split() -> None:
    batch, seq = symbol("batch"), symbol("seq")
    dense = views.dense("x", dtypes.float32, (batch, seq, 12, 64))
    heads = views.transpose(dense, (0, 2, 1, 3))
    assert views.reshape(heads, (batch * 12, seq, 64)) is None  # the heads lie inside the rows
    joined = views.reshape(views.transpose(heads, (0, 2, 1, 3)), (batch * seq, 768))
    assert joined is not None and joined.strides == (768, 1)


def test_memory_order_follows_strides() -> None:
    image = views.dense("x", dtypes.float32, (symbol("n"), 8, 5, 5), (0, 2, 3, 1))
    assert views.memory_order(image) == (0, 2, 3, 1)
    assert views.memory_order(views.broadcast(image, (4, symbol("n"), 8, 5, 5))) == (0, 1, 3, 4, 2)
    column = views.dense("x", dtypes.float32, (7, 1))
    assert views.memory_order(views.broadcast(column, (7, 64))) == (0, 1)
