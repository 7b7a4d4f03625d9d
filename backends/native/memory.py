"""Lifetimes to arena offsets, and 64-byte-aligned memory.

Lifetimes are known while compiling (they count calls, not bytes); a plan only has to place the buffers for its sizes:
greedy first fit, largest first (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.kernels import Buffer, KernelCall, MapSpec, View

ALIGNMENT = 64


def align(size: int) -> int:
    """`size` rounded up to a whole number of cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def aligned_empty(size: int) -> np.ndarray:
    """Uninitialised bytes (uint8) that start on a cache line."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def aligned_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros that start on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A writable dense copy in native byte order that starts on a cache line (of strings: anywhere)."""
    if array.dtype.hasobject:
        return array.copy()
    copy = aligned_empty(array.nbytes).view(array.dtype.newbyteorder("=")).reshape(array.shape)
    copy[...] = array
    return copy


def window(array: np.ndarray, shape: Sequence[int], strides: Sequence[int], offset: int) -> np.ndarray:
    """A strided window on the memory of a dense array, strides and offset in elements (of Python objects: a copy).
    Raises ValueError or IndexError when it reaches outside. (as_strided does not know the float8 types.)"""
    if 0 in shape:  # its strides may lead anywhere
        return np.empty(shape, array.dtype)
    if array.dtype.hasobject:
        grid = np.indices(shape, sparse=True)
        places = offset + sum(i * stride for i, stride in zip(grid, strides, strict=True))
        return np.asarray(array.reshape(-1)[places], object).reshape(shape)
    size = array.dtype.itemsize
    memory = np.ascontiguousarray(array).reshape(-1).view(f"u{size}" if size in (1, 2) else array.dtype)
    return np.ndarray(shape, array.dtype, memory, offset * size, [stride * size for stride in strides])


@dataclass(frozen=True)
class Lifetime:
    """A piece of memory in use from call `first` to call `last`, both included, by the buffers that share it."""

    buffers: tuple[str, ...]
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether some call needs both."""
        return self.first <= other.last and other.first <= self.last


class ArenaLayout:
    """Where the temporary buffers of a run of calls go. Maps write in place over an operand that dies there."""

    def __init__(self, calls: Sequence[KernelCall], temporaries: Mapping[str, Buffer]) -> None:
        self.lifetimes = _share_in_place(calls, temporaries, _lifetimes(calls, temporaries))
        self._neighbours = [
            [j for j, other in enumerate(self.lifetimes) if j != i and other.overlaps(lifetime)]
            for i, lifetime in enumerate(self.lifetimes)
        ]

    def offsets(self, sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
        """The offset of each buffer given its bytes, and the bytes of the whole arena."""
        needs = [align(max(sizes[name] for name in lifetime.buffers)) for lifetime in self.lifetimes]
        placed: dict[int, tuple[int, int]] = {}
        for i in sorted(range(len(needs)), key=needs.__getitem__, reverse=True):
            start = 0
            for low, high in sorted(placed[j] for j in self._neighbours[i] if j in placed):
                if low >= start + needs[i]:
                    break
                start = max(start, high)
            placed[i] = (start, start + needs[i])
        offsets = {name: placed[i][0] for i, lifetime in enumerate(self.lifetimes) for name in lifetime.buffers}
        return offsets, max((high for _, high in placed.values()), default=0)


def _lifetimes(calls: Sequence[KernelCall], temporaries: Iterable[str]) -> dict[str, Lifetime]:
    found: dict[str, Lifetime] = {}
    wanted = set(temporaries)
    for position, call in enumerate(calls):
        for view in (*call.reads, *call.writes):
            if view.buffer in wanted:
                first = found[view.buffer].first if view.buffer in found else position
                found[view.buffer] = Lifetime((view.buffer,), first, position)
    return found


def _share_in_place(
    calls: Sequence[KernelCall], temporaries: Mapping[str, Buffer], lifetimes: dict[str, Lifetime]
) -> list[Lifetime]:
    home: dict[str, Lifetime] = dict(lifetimes)
    for position, call in enumerate(calls):
        if not isinstance(call.spec, MapSpec):
            continue
        taken: set[str] = set()
        for write in call.writes:
            read = _dying_operand(call, write, position, temporaries, lifetimes, taken)
            if read is None:
                continue
            taken.add(read.buffer)
            old, new = home[read.buffer], home[write.buffer]
            merged = Lifetime(old.buffers + new.buffers, old.first, new.last)
            home.update(dict.fromkeys(merged.buffers, merged))
    return list(dict.fromkeys(home.values()))


def _dying_operand(
    call: KernelCall,
    write: View,
    position: int,
    temporaries: Mapping[str, Buffer],
    lifetimes: Mapping[str, Lifetime],
    taken: set[str],
) -> View | None:
    """An operand of a map whose memory `write` may reuse: nobody else needs either, and their layouts are equal."""
    target = temporaries.get(write.buffer)
    if target is None or lifetimes[write.buffer].first != position:
        return None
    for read in call.reads:
        source = temporaries.get(read.buffer)
        if source is None or source is target or read.buffer in taken or lifetimes[read.buffer].last != position:
            continue
        same_size = source.elements == target.elements and source.dtype.bytes == target.dtype.bytes
        if same_size and all(_same_layout(r, write) for r in call.reads if r.buffer == read.buffer):
            return read
    return None


def _same_layout(a: View, b: View) -> bool:
    return a.shape == b.shape and a.strides == b.strides and a.offset == b.offset and a.dtype.bytes == b.dtype.bytes
