"""Operations NumPy lacks, correctly rounded: fused multiply-add and rounding to odd."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

_TINY, _HUGE = 2.0**-900, 2.0**900


def round_to_odd(x: np.ndarray) -> np.ndarray:
    """float64 to float32 so that rounding the result again, to a type of at most 22 bits, is a single rounding.

    Where inexact, the neighbour whose last bit is 1 (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    nearest = x.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    inexact = (back != x) & (x == x)
    return (
        np.where(inexact, (bits - (np.abs(back) > np.abs(x))) | np.uint32(1), bits).astype(np.uint32).view(np.float32)
    )


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in float32 with one rounding: the float64 sum rounded to odd, then to float32."""
    product = a.astype(np.float64) * b.astype(np.float64)
    return _add_to_odd(product, c.astype(np.float64)).astype(np.float32)


def dot32(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """a * b + c * d of half floats (as float32) with one rounding to float32, then added to `addend`."""
    products = [x.astype(np.float64) * y.astype(np.float64) for x, y in ((a, b), (c, d))]
    return addend + _add_to_odd(*products).astype(np.float32)


def dot32_to_odd(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """a * b + c * d + addend in float32, of bfloat16 (as float32): every result rounded to odd, infinite from 2^128 on;
    denormals are taken and given as 0.

    Arm, "Arm Architecture Reference Manual for A-profile architecture", BFDotAdd with FPCR.EBF = 0.
    """
    total, *pieces = (flushed(x).astype(np.float64) for x in (addend, a, b, c, d))
    a, b, c, d = pieces
    both = _to_odd32(_add_to_odd(_to_odd32(a * b), _to_odd32(c * d)))
    return _to_odd32(_add_to_odd(total, both)).astype(np.float32)


def _to_odd32(x: np.ndarray) -> np.ndarray:
    """float64 rounded to what float32 holds."""
    return np.where(np.abs(x) >= 2.0**128, np.copysign(np.inf, x), flushed(round_to_odd(x))).astype(np.float64)


def flushed(x: np.ndarray) -> np.ndarray:
    """float32 with zeros of the same sign for denormals."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in float64 with one rounding.

    Error-free products and sums with a rounding to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded
    sums", 2008) where no intermediate can over- or underflow; exact rationals for the few elements left.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    product = a * b
    plain = ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c)) | (a == 0) | (b == 0)
    size, addend = np.abs(product), np.abs(c)
    negligible = (addend >= _TINY) & (size < addend * 2.0**-150)
    ordinary = (size >= _TINY) & (size <= _HUGE) & (addend <= _HUGE) & ((addend >= _TINY) | (c == 0))
    ordinary &= (np.abs(a) < _HUGE) & (np.abs(b) < _HUGE)
    # An infinite addend stays what it is beside a finite product, however far that overflows.
    infinite = np.isinf(c) & np.isfinite(a) & np.isfinite(b)
    simple = np.where(infinite, c, product + c)
    result = np.where(plain, simple, np.where(negligible, c, _sum_of_three(a, b, product, c)))
    rest = ~(plain | negligible | ordinary)
    if rest.any():
        result[rest] = [_rational_fma(*v) for v in zip(a[rest], b[rest], c[rest], strict=True)]
    return result


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b rounded, and its error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a * b rounded, and its error, by splitting (Dekker); float64 below 2^990."""
    product = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = a * (2.0**27 + 1)
    high = scaled - (scaled - a)
    return high, a - high


def _sum_of_three(a: np.ndarray, b: np.ndarray, product: np.ndarray, c: np.ndarray) -> np.ndarray:
    low = two_product(a, b)[1]
    upper, lower = two_sum(c, low)
    total, error = two_sum(product, upper)
    return total + _add_to_odd(error, lower)


def _add_to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b rounded to odd in float64."""
    total, error = two_sum(a, b)
    even = (total.view(np.int64) & 1) == 0
    nudge = np.isfinite(total) & (error != 0) & even
    return np.where(nudge, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)


def _rational_fma(a: float, b: float, c: float) -> float:
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return float(a * b + c)
    try:
        rounded = float(exact)
    except OverflowError:
        rounded = float("inf")
        return rounded if exact > 0 else -rounded
    return rounded if rounded else (0.0 if exact > 0 else -0.0)
