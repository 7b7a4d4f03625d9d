"""The spec of greedy suppression (see compiler/kernels.py)."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.dtypes import DType


@dataclass(frozen=True)
class SuppressSpec:
    """Of boxes in falling order of their scores, those that overlap none that stays before them, a row at a time.

    Reads: boxes (B, N, 4) and scores (B, C, N; rows lie densely) of type `dtype` (float32 or float64); then scalars ():
    the most boxes of a row (int64, only if `limited`), the overlap threshold, the score threshold (only if
    `thresholded`). Write: int64 (B, C, K): the boxes that stay, in order, at most K <= N, then -1. A NaN is the
    greatest score, equal ones stay as they came; a box whose score is not above the threshold takes no part.

    A box is two opposite corners or, `centred`, (x, y, width, height). Two overlap where shared / ((area of the one +
    area of the other) - shared) is above the threshold, each operation rounded to `dtype`; a NaN overlaps nothing.
    """

    dtype: DType
    centred: bool
    limited: bool
    thresholded: bool
