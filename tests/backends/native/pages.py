"""Arrays flush against memory that nobody may touch: reading or writing one byte further kills the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

_KEPT: list[mmap.mmap] = []  # NumPy views do not keep a mapping alive once it is protected
_LIBC = ctypes.CDLL(None, use_errno=True)
POISON = 0xA5  # what lies between the elements of a slice: as a float small, as an index far away


def at_page_end(array: np.ndarray, beyond: int = 0) -> np.ndarray:
    """A copy with the same strides whose last byte is the last of its page, the next page being inaccessible.
    `beyond`: so many bytes of it lie on that page."""
    return _between_fences(array, beyond, at_end=True)


def at_page_start(array: np.ndarray, beyond: int = 0) -> np.ndarray:
    """A copy with the same strides whose first byte is the first of its page, the page before being inaccessible.
    `beyond`: so many bytes of it lie on that page."""
    return _between_fences(array, beyond, at_end=False)


def _between_fences(array: np.ndarray, beyond: int, at_end: bool) -> np.ndarray:
    if array.ndim and array.size and not array.flags.c_contiguous:
        reach = [(extent - 1) * stride for extent, stride in zip(array.shape, array.strides, strict=True)]
        before, span = -sum(r for r in reach if r < 0), sum(map(abs, reach)) + array.itemsize
        strides = array.strides
    else:
        before, span, strides = 0, array.nbytes, array.strides
    page = mmap.PAGESIZE
    inside = max(-(-span // page), 1)
    memory = mmap.mmap(-1, (inside + 2) * page)
    _KEPT.append(memory)
    whole = np.frombuffer(memory, np.uint8)
    whole[:] = POISON
    start = (1 + inside) * page - span + beyond if at_end else page - beyond
    copy = np.ndarray(array.shape, array.dtype, memory, start + before, strides)
    copy[...] = array
    for fence in (0, (1 + inside) * page):
        assert _LIBC.mprotect(ctypes.c_void_p(whole.ctypes.data + fence), page, 0) == 0
    return copy
