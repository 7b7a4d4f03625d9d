"""Weights as block_matmul takes them: rounded to codes of 4 or 8 bits, with a scale for each group along K."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.errors import DtypeError, ModelError

# Of a group's range, how much codes span: clipping the largest weights may cost less than a coarser step for all.
SHRINKING = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)
COLUMNS = 512  # rounded at a time, to bound the memory this takes
_SIGNED = {4: dtypes.int4, 8: dtypes.int8}
_UNSIGNED = {4: dtypes.uint4, 8: dtypes.uint8}


def quantize_blocks(
    weights: np.ndarray, bits: int, group: int, symmetric: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Floats [K, N] as codes [K, N], float32 scales [ceil(K / group), N] and zero points of the codes' type and the
    scales' shape: signed codes and None if `symmetric`, else unsigned ones. The last group may be shorter; one as long
    as K is a scale a column.

    Of a group's least and greatest weight and shrunken such ranges the one whose codes, with the scale that fits them
    best by least squares, leave the least squared error. Raises DtypeError for other bits than 4 and 8, ModelError for
    weights that are not finite or no matrix, and groups below 1.
    """
    if bits not in _SIGNED:
        raise DtypeError(f"weights of {bits} bits; expected 4 or 8")
    if weights.ndim != 2 or group < 1:
        raise ModelError(f"weights of shape {weights.shape} in groups of {group}; expected a matrix and at least 1")
    if not np.isfinite(weights.astype(np.float32)).all():
        raise ModelError("weights that are infinite or NaN have no codes; keep them in float")
    k, n = weights.shape
    group = min(group, max(k, 1))
    kind = (_SIGNED if symmetric else _UNSIGNED)[bits]
    codes = np.empty((k, n), kind.numpy)
    scales, zeros = np.empty((-(-k // group), n), np.float32), np.zeros((-(-k // group), n), kind.numpy)
    for first in range(0, n, COLUMNS):
        part = np.s_[:, first : first + COLUMNS]
        codes[part], scales[part], zeros[part] = _rounded(weights[part].astype(np.float32), kind, group)
    return codes, scales, None if symmetric else zeros


def _rounded(weights: np.ndarray, kind: DType, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [K, n], scales and zero points [groups, n]."""
    k, n = weights.shape
    blocks = np.zeros((-(-k // group), group, n), np.float32)  # a zero costs nothing: some code always means it
    blocks.reshape(-1, n)[:k] = weights
    best_error = np.full((len(blocks), 1, n), np.inf, np.float32)
    best_codes, best_scale = np.zeros_like(blocks), np.ones_like(best_error)
    best_zero = np.zeros_like(best_error)
    low, high = (0, (1 << kind.bits) - 1) if kind.kind == "uint" else (-(1 << kind.bits - 1), (1 << kind.bits - 1) - 1)
    for scale, zero in _ranges(blocks, low, high):
        codes = np.clip(np.rint(blocks / scale) + zero, low, high)
        steps = codes - zero
        norm = np.square(steps).sum(1, keepdims=True)
        fitted = (steps * blocks).sum(1, keepdims=True) / np.where(norm, norm, 1)
        scale = np.where(fitted != 0, fitted, scale).astype(np.float32)
        error = np.square(steps * scale - blocks).sum(1, keepdims=True)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_codes = np.where(better, codes, best_codes)
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
    codes = best_codes.reshape(-1, n)[:k].astype(np.int16).astype(kind.numpy)
    return codes, best_scale[:, 0], best_zero[:, 0].astype(np.int16).astype(kind.numpy)


def _ranges(blocks: np.ndarray, low: int, high: int) -> Iterator[tuple[np.ndarray, np.ndarray | float]]:
    """Scales and zero points [groups, 1, n] to try."""
    least, greatest = (np.minimum(blocks.min(1, keepdims=True), 0), np.maximum(blocks.max(1, keepdims=True), 0))
    if low < 0:
        # The lower end has one code more: it is given to the larger side, which a negative scale turns.
        side = np.where(greatest > -least, greatest, least) / low
        for part in SHRINKING:
            yield _nonzero(side * part), 0.0
            yield _nonzero(np.abs(side) * part * (low / -high)), 0.0
        return
    for part in SHRINKING:
        scale = _nonzero((greatest - least) * (part / (high - low)))
        yield scale, np.clip(np.rint(-least * part / scale), low, high)


def _nonzero(scale: np.ndarray) -> np.ndarray:
    scale = scale.astype(np.float32)
    return np.where(scale == 0, np.float32(1), scale)
