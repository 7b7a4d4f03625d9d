"""Arrays that end where memory ends: reading one byte further kills the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

_KEPT: list[mmap.mmap] = []  # NumPy views do not keep a mapping alive once it is protected


def at_page_end(array: np.ndarray) -> np.ndarray:
    """A dense copy whose last byte is the last of its page, the next page being inaccessible."""
    pages = -(-array.nbytes // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    _KEPT.append(memory)
    whole = np.frombuffer(memory, np.uint8)
    fence = (pages - 1) * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + fence), mmap.PAGESIZE, 0) == 0
    copy = whole[fence - array.nbytes : fence].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
