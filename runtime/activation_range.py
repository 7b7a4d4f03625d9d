"""Ranges of activations from what was observed of them: least and greatest, percentiles, or least squared error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compiler.quantization import CODES, LEAST_SPAN, affine

BINS = 4096
OUTSIDE = 1e-4  # of all elements, what the percentile method leaves outside of the range, half of it on either side
_SHRINKS = np.linspace(1.0, 0.3, 36)


class Histogram:
    """Counts of elements in equal bins over [-reach, reach], reach being a power of two that grows as needed."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.counts = np.zeros(BINS)
        self.reach = 2.0**-20

    def add(self, array: np.ndarray) -> None:
        """Count an array's finite elements."""
        flat = array.reshape(-1)
        flat = flat[np.isfinite(flat)].astype(np.float32)
        if not flat.size:
            return
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        while max(-self.low, self.high) > self.reach:
            self._widen()
        self.counts += np.histogram(flat, BINS, (-self.reach, self.reach))[0]

    @property
    def centres(self) -> np.ndarray:
        """The middle of every bin."""
        return (np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach

    def _widen(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.concatenate([np.zeros(BINS // 4), pairs, np.zeros(BINS // 4)])
        self.reach *= 2


def minmax(seen: Histogram) -> tuple[float, float]:
    """The least and the greatest element."""
    return seen.low, seen.high


def percentile(seen: Histogram) -> tuple[float, float]:
    """The range that OUTSIDE of all elements lie beyond."""
    below = np.cumsum(seen.counts) / seen.counts.sum()
    edges = np.linspace(-seen.reach, seen.reach, BINS + 1)
    low = edges[np.searchsorted(below, OUTSIDE / 2, "right")]
    high = edges[1 + np.searchsorted(below, 1 - OUTSIDE / 2)]
    return max(float(low), seen.low), min(float(high), seen.high)


def mse(seen: Histogram) -> tuple[float, float]:
    """The range whose 256 codes are nearest to the elements in the mean square: either end moved in as long as that
    helps."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    least = squared_error(seen, low, high)
    for _ in range(2):
        for shrink in _SHRINKS[1:]:
            for ends in ((seen.low * shrink, high), (low, seen.high * shrink)):
                error = squared_error(seen, *ends)
                if error < least:
                    (low, high), least = ends, error
    return min(low, 0.0), max(high, 0.0)


METHODS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}


def squared_error(seen: Histogram, low: float, high: float) -> float:
    """The sum of the squares of what quantizing to [low, high] does to the elements."""
    x = seen.centres
    return float(np.sum(seen.counts * (quantized(x, low, high) - x) ** 2))


def quantized(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """What uint8 codes for [low, high] make of x."""
    scale, zero = affine(low, high)
    return (np.clip(np.rint(x / scale) + zero, 0, CODES) - zero) * scale


def quantized_rows(x: np.ndarray) -> np.ndarray:
    """What uint8 codes in the range of each row make of x [n, K]."""
    low, high = np.minimum(x.min(axis=1, keepdims=True), 0), np.maximum(x.max(axis=1, keepdims=True), 0)
    scale = np.where(high - low < LEAST_SPAN, 1, (high - low) / CODES)
    zero = np.clip(np.rint(-low / scale), 0, CODES)
    return (np.clip(np.rint(x / scale) + zero, 0, CODES) - zero) * scale
