"""Sorting in NumPy: unsigned keys that order as the elements do, and the stable order of rows of keys."""

from __future__ import annotations

import numpy as np

from compiler import dtypes


def total_order(x: np.ndarray) -> np.ndarray:
    """Unsigned integers of x's shape that compare as x's elements do, so that equal keys mean equal elements: -0 equals
    0, and all NaNs are equal and greatest. Strings (object arrays) are ranked."""
    if x.dtype == object:
        return np.unique(x, return_inverse=True)[1].reshape(x.shape).astype(np.uint64)
    if x.dtype == bool:
        return x.view(np.uint8)
    dtype = dtypes.from_numpy(x.dtype)
    bits = dtype.bytes * 8
    unsigned = np.dtype(f"u{dtype.bytes}")
    top = unsigned.type(1 << (bits - 1))
    if not dtype.is_float:
        signed = x if x.dtype.kind in "iu" else x.astype(np.int8 if dtype.kind == "int" else np.uint8)
        return signed.view(unsigned) ^ top if dtype.kind == "int" else signed.view(unsigned)
    if bits < 16:
        return total_order(x.astype(np.float32))
    # Flipping all bits of negative numbers and the sign of the others makes them compare as integers.
    codes = np.where(x == 0, np.zeros((), x.dtype), x).view(unsigned)
    keys = np.where(codes >= top, ~codes, codes | top)
    return np.where(np.isnan(x), unsigned.type((1 << bits) - 1), keys)


def stable_order(keys: np.ndarray) -> np.ndarray:
    """The int64 permutation that sorts the rows of unsigned keys [n, m] lexicographically, equal ones as they came."""
    rows, width = keys.shape
    if width == 0 or rows < 2:
        return np.arange(rows)
    if width > 1:
        size = keys.dtype.itemsize * width
        joined = np.ascontiguousarray(keys.astype(keys.dtype.newbyteorder(">"))).view(f"V{size}")
        return np.argsort(joined[:, 0], kind="stable")
    column = keys[:, 0].astype(np.uint64)
    lowest = column.min()
    if int(column.max() - lowest) >> 32 or rows >> 32:
        return np.argsort(column, kind="stable")
    # Key and place in one integer: sorting those is five times as fast as a stable argsort.
    packed = (column - lowest) << np.uint64(32) | np.arange(rows, dtype=np.uint64)
    return (np.sort(packed) & np.uint64(0xFFFFFFFF)).astype(np.int64)
