"""Greedy suppression in NumPy, as a SuppressSpec says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.evaluate import Mode
from compiler.ops.core_suppress import Suppress
from compiler.suppression import SuppressSpec


def run_suppress(
    spec: SuppressSpec, reads: Sequence[np.ndarray], writes: Sequence[np.ndarray], mode: Mode, params: list[int]
) -> None:
    """Fill the one write; every mode gives the same places."""
    boxes, scores, *scalars = reads
    most = scalars.pop(0) if spec.limited else None
    overlap, least = scalars[0], scalars[1] if spec.thresholded else None
    assert Suppress.reference is not None
    writes[0][...] = Suppress.reference(
        boxes,
        scores,
        most,
        overlap,
        least,
        center_point_box=int(spec.centred),
        columns=writes[0].shape[2],
    )
