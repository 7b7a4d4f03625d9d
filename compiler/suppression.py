"""The spec of greedy suppression (see compiler/kernels.py)."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.dtypes import DType


@dataclass(frozen=True)
class SuppressSpec:
    """Of boxes in falling order of their scores, those that overlap none that stays before them, a row at a time.

    Reads: boxes (B, N, 4) and scores (B, C, M) of type `dtype` (float32 or float64), places (B, C, M) int64: which of
    the N boxes each score is of, any other is an error flag; then scalars (): the most boxes of a row (int64, only if
    `limited`), the overlap threshold, the score threshold (only if `thresholded`). Write: int64 (B, C, K): the places
    of the boxes that stay, in order, at most K <= M, then -1. Scores fall, NaNs first; one not above the score
    threshold takes no part, and the first such that is no NaN ends the row.

    A box is two opposite corners or, `centred`, (x, y, width, height). Two overlap where shared / ((area of the one +
    area of the other) - shared) is above the threshold, each operation rounded to `dtype`; a NaN overlaps nothing.
    """

    dtype: DType
    centred: bool
    limited: bool
    thresholded: bool
