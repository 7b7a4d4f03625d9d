"""Conversions of NumPy arrays between element types, rounded once and with every out-of-range case defined."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.dtypes import DType

SATURATING = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")


def round_to(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A float64 array in float type `dtype`, rounded once to nearest even.

    ml_dtypes converts float64 to its own types by way of float32; rounding that first step to odd makes the two
    roundings equal one (S. Boldo, G. Melquiond: Emulation of FMA and correctly rounded sums, 2008).
    """
    dtype = np.dtype(dtype)
    with np.errstate(all="ignore"):
        if (dtype.kind == "f" and dtype.itemsize > 1) or array.dtype != np.float64:
            return array.astype(dtype)
        near = np.atleast_1d(array).astype(np.float32)
        past = np.abs(near.astype(np.float64)) > np.abs(array)
        odd = np.where(past, np.nextafter(near, np.float32(0)), near).astype(np.float32)
        inexact = np.isfinite(array) & (odd.astype(np.float64) != array)
        bits = odd.view(np.uint32) | inexact.astype(np.uint32)
        return bits.view(np.float32).astype(dtype).reshape(array.shape)


def convert(array: np.ndarray, dtype: DType, saturate: bool = True) -> np.ndarray:
    """`array` in element type `dtype`.

    float -> integer goes towards zero, saturates, and NaN gives 0; integer -> integer wraps; anything -> bool is
    `!= 0`; float -> float8 saturates where asked (else NaN or infinity as the format has); numbers -> string is
    Python's shortest text.
    """
    target, source = dtype.numpy, dtypes.from_numpy(array.dtype)
    if array.dtype == target:
        return array
    if dtype.kind == "string":
        return np.array([str(x) for x in array.flat], dtype=object).reshape(array.shape)
    if source.kind == "string":
        texts = np.array([float(x) if not dtype.is_integer else int(float(x)) for x in array.flat])
        return convert(texts.reshape(array.shape), dtype, saturate)
    with np.errstate(all="ignore"):
        if dtype.kind == "bool":
            return np.asarray(array != np.zeros((), array.dtype))
        if source.is_float and dtype.is_integer:
            return _to_integer(array.astype(np.float64), dtype)
        if source.is_float and dtype.is_float:
            exact = array.astype(np.float64)
            if saturate and dtype.name in SATURATING:
                limit = float(ml_dtypes.finfo(target).max)
                exact = np.clip(exact, -limit, limit)
            return round_to(exact, target)
        if source.is_integer and dtype.is_float and dtype.bits < 32:
            return round_to(array.astype(np.float64), target)
        if dtype.is_integer and dtype.bits < 8:
            return _wrap_narrow(array.astype(np.int64), dtype)
        return array.astype(target)


def integer_limits(dtype: DType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    if dtype.kind == "uint":
        return 0, 2**dtype.bits - 1
    return -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1


def _to_integer(array: np.ndarray, dtype: DType) -> np.ndarray:
    low, high = integer_limits(dtype)
    whole = np.nan_to_num(np.trunc(array), nan=0.0, posinf=np.inf, neginf=-np.inf)
    inside = (whole > low) & (whole < high)
    wide = np.uint64 if dtype.kind == "uint" else np.int64
    result = np.where(inside, whole, 0.0).astype(wide)
    result = np.where(inside, result, np.where(whole <= low, np.array(low, wide), np.array(high, wide)))
    return result.astype(dtype.numpy)


def _wrap_narrow(array: np.ndarray, dtype: DType) -> np.ndarray:
    low, high = integer_limits(dtype)
    return ((array - low) % (high - low + 1) + low).astype(dtype.numpy)
