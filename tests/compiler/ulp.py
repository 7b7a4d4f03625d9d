"""Errors in units of the last place, and the sample points the mathlib tests share."""

from __future__ import annotations

import numpy as np
from scipy import special

from compiler.mathlib.reference import FUNCTIONS

# SciPy's are vectorised: the exhaustive test would wait for the C library's, one element at a time.
VECTORISED = {**FUNCTIONS, "erf": special.erf, "erfc": special.erfc, "normcdf": special.ndtr}


def single_errors(got: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|got - truth| for float32 results in ulps of the rounded float64 truth; infinite for a wrong special."""
    with np.errstate(all="ignore"):
        wide, rounded = got.astype(np.float64), truth.astype(np.float32)
        unit = np.spacing(np.maximum(np.abs(rounded), np.float32(2.0**-126))).astype(np.float64)
        errors = np.abs(wide - truth) / np.where(np.isfinite(unit), unit, 2.0**104)
        same = (wide == truth) | (np.isnan(wide) & np.isnan(truth)) | ((wide == rounded) & np.isinf(wide))
        errors = np.where(same, 0.0, errors)
    errors[(got == 0) & (truth == 0) & (np.signbit(got) != np.signbit(truth))] = np.inf
    errors[np.isnan(errors)] = np.inf
    return errors


def describe_worst(x: np.ndarray, got: np.ndarray, truth: np.ndarray, errors: np.ndarray) -> str:
    """The worst point, for assertion messages."""
    i = int(np.argmax(errors))
    return f"{errors[i]:.3f} ulp at {x[i]!r}: {got[i]!r}, expected {truth[i]!r}"


def strided_singles(step: int, start: int = 0) -> np.ndarray:
    """Every `step`-th of all float32 bit patterns, and the special values."""
    bits = np.arange(start, 1 << 32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    edges = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 2.0**-126, 2.0**16, 3.4028235e38]
    return np.concatenate([bits, np.array(edges, np.float32)])
