"""Tile products in NumPy, in the order and with the roundings of the manual, and matrices to try them on."""

from __future__ import annotations

import numpy as np

LEAST = np.float32(2.0**-126)  # normal number


def _without_denormals(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < LEAST, np.copysign(np.float32(0), x), x)


def _rounded(total: np.ndarray) -> np.ndarray:
    """float64 to float32; what is below the least normal number after rounding to 24 bits becomes zero."""
    scaled = (total * 2.0**64).astype(np.float32)
    tiny = np.abs(scaled) < LEAST * np.float32(2.0**64)
    return np.where(tiny, np.copysign(np.float32(0), total.astype(np.float32)), total.astype(np.float32))


def _fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x y + z of float32, rounded once. x and y have 12 bits at most, so that float64 holds their product."""
    product, z = x.astype(np.float64) * y, z.astype(np.float64)
    total = product + z
    back = total - product
    error = (product - (total - back)) + (z - back)
    # Rounding to odd before rounding to nearest gives what a single rounding gives.
    even = (total.view(np.int64) & 1 == 0) & np.isfinite(total) & (error != 0)
    return _rounded(np.where(even, np.nextafter(total, np.copysign(np.inf, error)), total))


def float_product(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """c (m, n) + a (m, k) b (k, n), all float32; a and b hold BF16 or FP16 values."""
    with np.errstate(all="ignore"):
        sums = [np.zeros_like(c), np.zeros_like(c)]
        for k in range(a.shape[1]):
            x, y = _without_denormals(a[:, k : k + 1]), _without_denormals(b[k])
            sums[k % 2] = _fma(x, y, sums[k % 2])
        both = _rounded(sums[0].astype(np.float64) + sums[1])
        return _rounded(_without_denormals(c).astype(np.float64) + both)


def byte_product(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """c (m, n) int32 + a (m, k) b (k, n) of int8 or uint8, modulo 2^32."""
    return (c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)).astype(np.uint32).view(np.int32)


def interleaved(b: np.ndarray) -> np.ndarray:
    """The second factor (k, n) as a tile holds it: (k / g, n g), g elements of a column in each 32 bits."""
    group = 4 // b.itemsize
    k, n = b.shape
    return np.ascontiguousarray(b.reshape(k // group, group, n).transpose(0, 2, 1)).reshape(k // group, n * group)


def widened(x: np.ndarray) -> np.ndarray:
    """float32 of FP16, or of BF16 given as uint16."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x.astype(np.float32)


def floats(rng: np.random.Generator, shape: tuple[int, ...], half: bool, kind: str) -> np.ndarray:
    """Random BF16 (as uint16) or FP16: "usual" numbers, the "wide" range of all finite ones, or "special" values
    strewn among usual ones."""
    usual = rng.standard_normal(shape).astype(np.float32)
    words = usual.astype(np.float16).view(np.uint16) if half else (usual.view(np.uint32) >> 16).astype(np.uint16)
    infinity = 0x7C00 if half else 0x7F80
    if kind == "wide":
        words = (rng.integers(0, infinity, shape) | rng.integers(0, 2, shape) << 15).astype(np.uint16)
    elif kind == "special":
        least = 0x0400 if half else 0x0080  # normal number
        values = np.array([0, 1, least - 1, least, infinity - 1, infinity, infinity + 1, 0x7FFF], np.uint16)
        chosen = rng.choice(np.concatenate([values, values | 0x8000]), shape)
        words = np.where(rng.random(shape) < 0.05, chosen, words)
    return words.view(np.float16) if half else words
