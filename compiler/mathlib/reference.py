"""The composite functions of compiler/expr.py on float64 arrays, as near to the truth as NumPy and `math` get."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from compiler.mathlib.exact import two_product

_SQRT_HALF = math.sqrt(0.5)
_SQRT_HALF_LOW = -4.833646656726457e-17  # sqrt(1/2) - _SQRT_HALF


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, by the C library, element by element: NumPy has none."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64)


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x) without cancellation."""
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(x), np.float64)


def normcdf(x: np.ndarray) -> np.ndarray:
    """erfc(-x / sqrt 2) / 2, corrected to first order for the rounding of its argument."""
    u, low = two_product(x, np.asarray(_SQRT_HALF))
    low = np.where(np.isfinite(low), low + x * _SQRT_HALF_LOW, 0.0)
    return 0.5 * erfc(-u) + np.where(low == 0, 0.0, np.exp(-u * u) * low / math.sqrt(math.pi))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), tiny results included."""
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1.0) / (1.0 + small)


FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": erf, "erfc": erfc, "normcdf": normcdf, "sigmoid": sigmoid,
    "rsqrt": lambda x: 1.0 / np.sqrt(x), "cbrt": np.cbrt, "pow": np.power,
}  # fmt: skip
