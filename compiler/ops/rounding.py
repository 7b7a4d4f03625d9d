"""Conversions of NumPy arrays between element types, rounded once and with every out-of-range case defined."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.evaluate import convert as convert_numbers
from compiler.mathlib.exact import round_to_odd

SATURATING = frozenset({"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"})


def round_to(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A float64 array in float type `dtype`, rounded once to nearest even."""
    exact = np.asarray(array, np.float64)
    with np.errstate(all="ignore"):
        return (round_to_odd(exact) if np.dtype(dtype).itemsize < 4 else exact).astype(dtype)


def convert(array: np.ndarray, dtype: DType, saturate: bool = True) -> np.ndarray:
    """`array` in element type `dtype`: numbers as compiler.evaluate converts them.

    float -> float8 saturates where asked (else NaN or infinity as the format has); numbers -> string is Python's
    shortest text; string -> number reads Python's numbers, inf and nan in any case.
    """
    source = dtypes.from_numpy(array.dtype)
    if "string" in (source.kind, dtype.kind):
        return _convert_text(array, dtype, saturate)
    if "complex" in (source.kind, dtype.kind):
        return array.astype(dtype.numpy)
    if saturate and source.is_float and dtype.name in SATURATING:
        limit = float(ml_dtypes.finfo(dtype.numpy).max)
        array, source = np.clip(array.astype(np.float64), -limit, limit), dtypes.float64
    with np.errstate(all="ignore"):
        if source.is_float and dtype.is_integer and dtype.bits < 8:
            array, source = convert_numbers(array, source, dtypes.int32), dtypes.int32
        return convert_numbers(array, source, dtype)


def to_exponent(array: np.ndarray, mode: str, saturate: bool) -> np.ndarray:
    """|array| as a power of two, in float8_e8m0fnu. mode: up, down or nearest (halves up). Outside 2**-127..2**127
    the nearest of these where `saturate`, else NaN; NaN stays."""
    size = np.abs(array.astype(np.float64))
    fraction, exponent = np.frexp(size)  # size = fraction * 2**exponent, fraction in [0.5, 1)
    above = {"up": fraction > 0.5, "down": np.zeros(size.shape, bool), "nearest": fraction >= 0.75}[mode]
    power = np.where(size == 0, -1000, np.where(np.isinf(size), 1000, exponent - 1 + above))
    bad = np.isnan(size) | (~np.asarray(saturate) & (np.abs(power) > 127))
    return np.where(bad, 255, np.clip(power, -127, 127) + 127).astype(np.uint8).view(dtypes.float8_e8m0fnu.numpy)


def _convert_text(array: np.ndarray, dtype: DType, saturate: bool) -> np.ndarray:
    if dtype.kind == "string":
        texts = [str(x) for x in array.flat]
        return np.array(texts, dtype=object).reshape(array.shape)
    numbers = [int(x) if dtype.is_integer and x.lstrip("+-").isdigit() else float(x) for x in array.flat]
    return convert(np.array(numbers).reshape(array.shape), dtype, saturate)


def integer_limits(dtype: DType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    if dtype.kind == "uint":
        return 0, 2**dtype.bits - 1
    return -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1
