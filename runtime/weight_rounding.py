"""Codes of weights that make up for each other's rounding errors.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv:2210.17323): weights are rounded channel by channel along K, and what a channel's rounding changes in the
products of the data is taken up, as well as it can be in the least squares, by the channels not yet rounded.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128  # channels whose errors are handed on together
_DAMPING = 0.01  # of the mean diagonal: rows of data may be fewer than channels


def compensated(weights: np.ndarray, scales: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int8 codes in -127..127 [K, N] of weights [K, N] with scales [1, N], for products with rows like these [n, K]."""
    order = len(weights)
    second = (rows.T @ rows).astype(np.float64)
    second[np.diag_indices(order)] += _DAMPING * second.trace() / order + 1e-12
    # Upper: row i is what channel i's error does to the channels after it.
    factor = np.linalg.cholesky(np.linalg.inv(second)).T.astype(np.float32)
    left = weights.astype(np.float32) / scales
    codes = np.empty(weights.shape, np.int8)
    for first in range(0, order, BLOCK):
        last = min(first + BLOCK, order)
        errors = np.empty((last - first, weights.shape[1]), np.float32)
        for i in range(first, last):
            codes[i] = np.clip(np.rint(left[i]), -127, 127)
            errors[i - first] = (left[i] - codes[i]) / factor[i, i]
            left[i + 1 : last] -= np.outer(factor[i, i + 1 : last], errors[i - first])
        left[last:] -= factor[first:last, last:].T @ errors
    return codes
