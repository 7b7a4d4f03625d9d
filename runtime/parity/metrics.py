"""How far one array is from another: the figures of a node's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dtypes

_CODES = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True)
class Errors:
    """One result against the expected one, over the elements that are finite in both.

    norm: the L2 norm of the difference; scale: that of what was expected; ulp: the greatest distance in steps of the
    result's own type (integers: the greatest difference); cosine: of the angle between both (1 where both are zero);
    nan, inf: how many of the result's elements are; misplaced: how many are finite where the other's are not, or the
    other way round, or infinite with another sign; different: how many elements are not equal.
    """

    elements: int
    dtype: str
    max_abs: float
    ulp: int
    norm: float
    scale: float
    cosine: float
    nan: int
    inf: int
    misplaced: int
    different: int

    @property
    def relative(self) -> float:
        """Relative L2: 0 where nothing differs, infinite where something should be zero and is not."""
        return self.norm / self.scale if self.scale else (np.inf if self.norm else 0.0)

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in dB; infinite where nothing differs."""
        return float(-20 * np.log10(self.relative)) if self.relative else np.inf


def measure(found: Any, expected: Any) -> Errors:
    """`found` against `expected`, which may be of a wider type: for ulps and for what overflows it is rounded to the
    type of `found`. Any element types; shapes must be equal. Raises ValueError where they are not."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise ValueError(f"found shape {found.shape}, expected {expected.shape}")
    kind = dtypes.from_numpy(found.dtype).kind
    name = dtypes.from_numpy(found.dtype).name
    if kind in ("string", "complex"):
        different = int(np.count_nonzero(found != expected))
        return Errors(found.size, name, 0.0, 0, 0.0, 0.0, 1.0, 0, 0, 0, different)
    with np.errstate(all="ignore"):
        rounded = expected.astype(found.dtype, copy=False)
        a, b = _wide(found), _wide(expected)
        finite = np.isfinite(a) & np.isfinite(_wide(rounded)) & np.isfinite(b)
        nan, inf = int(np.isnan(a).sum()), int(np.isinf(a).sum())
        other = _wide(rounded)
        same = (a == other) | (np.isnan(a) & np.isnan(other))
        misplaced = int(np.count_nonzero(~finite & ~same))
        different = int(np.count_nonzero(~same))
        if not finite.all():
            a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        gap = np.abs(a - b)
        max_abs = float(gap.max(initial=0.0))
        norm, scale, size = _norm(gap), _norm(b), _norm(a)
        ulp = _steps(found, rounded, finite) if kind == "float" else int(min(max_abs, 2.0**62))
        cosine = _cosine(a, b, size, scale) if norm else 1.0
    return Errors(found.size, name, max_abs, ulp, norm, scale, cosine, nan, inf, misplaced, different)


def norm(array: Any) -> float:
    """The L2 norm of the finite elements."""
    with np.errstate(all="ignore"):
        wide = _wide(np.asarray(array))
        return _norm(np.where(np.isfinite(wide), wide, 0))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64, copy=False)


def _norm(x: np.ndarray) -> float:
    """Without overflow: squares of large doubles leave their range."""
    most = float(np.abs(x).max(initial=0.0))
    if most == 0 or not np.isfinite(most):
        return most
    return most * float(np.sqrt(np.square(x / most).sum()))


def _cosine(a: np.ndarray, b: np.ndarray, size: float, scale: float) -> float:
    if size == 0 or scale == 0:
        return 1.0 if size == scale else 0.0
    return float(np.clip(np.vdot(a / size, b / scale), -1.0, 1.0))


def _steps(found: np.ndarray, rounded: np.ndarray, finite: np.ndarray) -> int:
    """The greatest distance in representable numbers of the type."""
    places = [np.where(finite, _place(x), 0) for x in (found, rounded)]
    gaps = np.abs(places[0].astype(np.float64) - places[1].astype(np.float64))
    close = gaps < 2.0**52  # doubles cannot hold more exactly
    exact = np.abs(np.where(close, places[0] - places[1], 0)).max(initial=0)
    return int(max(int(exact), gaps.max(initial=0.0) if not close.all() else 0))


def _place(x: np.ndarray) -> np.ndarray:
    """Numbers as integers in the same order, neighbours one apart, both zeros the same."""
    code = np.ascontiguousarray(x).view(_CODES[x.dtype.itemsize]).astype(np.int64).reshape(x.shape)
    least = -(1 << (8 * x.dtype.itemsize - 1))
    return np.where(code >= 0, code, least - code)
