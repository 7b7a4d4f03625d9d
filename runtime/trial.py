"""One product quantized in a few ways, judged on rows of its activation that it was not fitted to."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np

from compiler.policy import Calibrated
from compiler.quantization import symmetric
from runtime.activation_range import quantized, quantized_rows
from runtime.activations import Observed
from runtime.weight_rounding import compensated

TINY = 1e-12
# Of the mean channel, the least that smoothing takes a channel for: one that was silent in the data may yet speak.
FLOOR = 1 / 8


class Trial:
    """Rows [n, K] of an activation times weights [K, N], smoothed by so much (0: not at all) in view of the greatest
    magnitudes [K] of the activation's channels. `ends`: the one range of static quantization, to be set."""

    def __init__(self, product: Observed, rows: np.ndarray, channels: np.ndarray, strength: float) -> None:
        self._product = product
        self._given = product.weights if product.summed == -1 else product.weights.T
        self.factors = smoothing(channels, self._given, strength) if strength else None
        self.rows = self._smoothed(rows)
        self._truth = rows @ self._given
        self._weights = self._given if self.factors is None else self._given * self.factors[:, None]
        self._nearest, self._scales = symmetric(self._weights, (0,))
        self.ends = (0.0, 0.0)

    def error(self, rows: np.ndarray, static: bool) -> float:
        """The relative error (L2) of other rows with the nearest codes: in the one range, or in each row's own."""
        found = self._quantized(self._smoothed(rows), static) @ (self._nearest * self._scales)
        return _relative(found, rows @ self._given)

    def settled(self, static: bool) -> tuple[Calibrated, float]:
        """How the product runs then, and the error left. Codes that make up for one another, and a correction by the
        mean error, are fitted to every other row, and taken where they help on the rest."""
        activation, truth = self._quantized(self.rows, static), self._truth
        fit, held = (np.s_[::2], np.s_[1::2]) if len(truth) > 1 else (np.s_[:], np.s_[:])
        fitted = {False: self._nearest, True: self._compensated(activation[fit])}
        ways: dict[tuple[bool, bool], float] = {}
        for together, corrected in combinations((False, True), repeat=2):
            found = activation @ (fitted[together] * self._scales)
            mean = (found[fit] - truth[fit]).mean(axis=0) if corrected else 0
            ways[together, corrected] = _relative(found[held] - mean, truth[held])
        together, corrected = min(ways, key=lambda way: ways[way])
        codes = self._compensated(activation) if together else self._nearest
        found = activation @ (codes * self._scales)
        correction = (found - truth).mean(axis=0).astype(np.float32) if corrected else None
        low, high = self.ends if static else (None, None)
        shaped = codes if self._product.summed == -1 else np.ascontiguousarray(codes.T)
        calibrated = Calibrated(low, high, self.factors, shaped if together else None, correction)
        return calibrated, ways[together, corrected]

    def _smoothed(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.factors is None else rows / self.factors

    def _compensated(self, activation: np.ndarray) -> np.ndarray:
        return compensated(self._weights, self._scales, activation)

    def _quantized(self, rows: np.ndarray, static: bool) -> np.ndarray:
        return (quantized(rows, *self.ends) if static else quantized_rows(rows)).astype(np.float32)


def smoothing(channels: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """Factors [K], their geometric mean 1, that activations are divided by and weights [K, N] multiplied by, so that
    less of the range goes to outlying channels: the channels' greatest magnitudes [K] to the power of `strength`, over
    those of their weights to the rest of 1 (Xiao et al. 2023, SmoothQuant, arXiv:2211.10438)."""
    spans = np.maximum(channels, max(FLOOR * float(channels.mean()), TINY))
    greatest = np.abs(weights).max(axis=1)
    greatest = np.maximum(greatest, max(FLOOR * float(greatest.mean()), TINY))
    factors = spans**strength / greatest ** (1 - strength)
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)


def _relative(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / max(float(np.linalg.norm(truth)), TINY))
