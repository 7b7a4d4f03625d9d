"""Numbers of affine quantization: scales, zero points and 8-bit codes of arrays, in NumPy."""

from __future__ import annotations

import numpy as np

CODES = 255  # steps between the least and the greatest of 8 bits
LEAST_SPAN = 1e-30  # of a range: what spans less is all zero point


def affine(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point (0..255) of uint8 codes for [low, high] with 0 in it, so that 0 has a code of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < LEAST_SPAN:
        return np.float32(1), 0
    scale = np.float32((high - low) / CODES)
    return scale, int(np.clip(np.rint(-low / np.float64(scale)), 0, CODES))


def symmetric(weights: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes in -127..127 of float weights, and their float32 scales: one where `axes` are gone (kept as 1)."""
    wide = weights.astype(np.float64)
    greatest = np.abs(wide).max(axis=axes, keepdims=True, initial=0)
    scale = np.where(greatest < LEAST_SPAN, 1, greatest / 127).astype(np.float32)
    return np.clip(np.rint(wide / scale), -127, 127).astype(np.int8), scale
