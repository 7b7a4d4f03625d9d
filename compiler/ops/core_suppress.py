"""The core op of non-maximum suppression: which boxes stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from compiler import dims, dtypes
from compiler.ir import Node
from compiler.op import Call, Sample, op
from compiler.ops.sort_keys import stable_order, total_order
from compiler.suppression import SuppressSpec
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

_BLOCK = 128  # candidates whose overlaps are computed together: more costs work, fewer cost calls
ATTRS = {"center_point_box": 0, "columns": None}


@op("suppress", attrs=ATTRS)
class Suppress:
    """Boxes [B,N,4], scores [B,C,N] and the scalars most (int64; missing: no limit), overlap and least (missing: none)
    -> int64 [B,C,K]: the boxes that stay in falling order of their scores, then -1; K is N, or at most `columns`.

    A box stays where its score is above `least` and it overlaps none that stays before it by more than `overlap`, up to
    `most` a row. Of equal scores the first comes first, and a NaN before any number. Boxes, scores and thresholds are
    all float32 or all float64. Overlaps are as kernels' SuppressSpec says.
    """

    def infer(call: Call) -> list[TensorType]:
        boxes, scores = call.tensor(0), call.tensor(1)
        if call.same_dtype(0, 1, 3, 4) not in (dtypes.float32, dtypes.float64):
            call.dtype_error(f"boxes are {boxes.dtype}; expected float32 or float64: cast")
        most = call.optional(2)
        if most is not None and most.dtype != dtypes.int64:
            call.dtype_error(f"the most boxes of a row are {most.dtype}; expected int64: cast")
        if boxes.shape is None or scores.shape is None or len(boxes.shape) != 3 or len(scores.shape) != 3:
            call.shape_error(f"boxes {boxes} and scores {scores}; expected [B, N, 4] and [B, C, N]")
        call.same_size(boxes.shape[0], scores.shape[0], "the number of images")
        call.same_size(boxes.shape[2], 4, "the coordinates of a box")
        count = call.same_size(boxes.shape[1], scores.shape[2], "the number of boxes")
        for i in range(2, 5):
            scalar = call.optional(i)
            if scalar is not None and scalar.shape != ():
                call.shape_error(f"operand {i} is {scalar}; expected a scalar")
        columns = call.attrs["columns"]
        kept = count if columns is None else dims.minimum(count, columns)
        return [TensorType(dtypes.int64, (*scores.shape[:2], kept))]

    def reference(
        boxes: np.ndarray,
        scores: np.ndarray,
        most: np.ndarray | None,
        overlap: np.ndarray,
        least: np.ndarray | None = None,
        *,
        center_point_box: int,
        columns: int | None,
    ) -> np.ndarray:
        count = scores.shape[2] if columns is None else min(columns, scores.shape[2])
        result = np.full((*scores.shape[:2], count), -1, np.int64)
        limit = count if most is None else min(int(most), count)
        if limit <= 0:
            return result
        wanted = np.ones(scores.shape, bool) if least is None else scores > least
        for image, corners in enumerate(_corners(boxes, center_point_box)):
            for kind in np.flatnonzero(wanted[image].any(axis=1)):
                candidates = np.flatnonzero(wanted[image, kind])
                falling = ~total_order(scores[image, kind, candidates])
                candidates = candidates[stable_order(falling[:, None])]
                stay = candidates[_stay(np.ascontiguousarray(corners[:, candidates]), overlap, limit)]
                result[image, kind, : len(stay)] = stay
        return result

    def lower(node: Node, low: Lowering) -> None:
        boxes, scores, *scalars = node.inputs
        most, overlap, least = (*scalars, None)[:3]
        out = low.allocate(node.output)
        if any(size == 0 for size in out.shape):
            return
        spec = SuppressSpec(
            boxes.type.dtype,  # type: ignore[union-attr]
            bool(node.attrs["center_point_box"]),
            limited=most is not None,
            thresholded=least is not None,
        )
        rows = low.with_unit_axis(low.view(scores), 2)  # type: ignore[arg-type]
        limits = [low.view(value) for value in (most, overlap, least) if value is not None]
        low.call(spec, [low.view(boxes), rows, *limits], [out])  # type: ignore[arg-type]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in (np.float32, np.float64):
            boxes = rng.uniform(0, 3, (2, 67, 4)).astype(dtype)
            scores = (rng.integers(0, 40, (2, 3, 67)) / 40).astype(dtype)
            overlap, least = np.array(0.3, dtype), np.array(0.4, dtype)
            name = np.dtype(dtype).name
            yield Sample((boxes, scores, np.array(9), overlap, least), name=f"{name} limits")
            yield Sample((boxes, scores, None, overlap), {"center_point_box": 1}, name=f"{name} centre")
            yield Sample((boxes, scores, None, overlap, least), {"columns": 5}, name=f"{name} columns")
            yield Sample((boxes, scores, np.array(-1), overlap), name=f"{name} none")


def _corners(boxes: np.ndarray, center_point_box: int) -> np.ndarray:
    """Boxes [B,N,4] as [B,4,N]: lower and upper end on one axis, lower and upper end on the other."""
    a, b, c, d = np.moveaxis(boxes, -1, 0)
    if center_point_box:
        half_width, half_height = c / 2, d / 2
        ends = (b - half_height, b + half_height, a - half_width, a + half_width)
    else:
        ends = (np.minimum(a, c), np.maximum(a, c), np.minimum(b, d), np.maximum(b, d))
    return np.stack(ends, axis=1)


def _stay(corners: np.ndarray, threshold: np.ndarray, limit: int) -> np.ndarray:
    """Places of at most `limit` boxes that stay, of boxes [4,N] in falling order of their scores.

    Greedy, in blocks: what overlaps a box of an earlier block goes at once; within a block the pairs decide in order.
    """
    stay = np.zeros(0, np.int64)
    for start in range(0, corners.shape[1], _BLOCK):
        block = np.arange(start, min(start + _BLOCK, corners.shape[1]))
        if len(stay):
            block = block[~_overlaps(corners[:, stay], corners[:, block], threshold).any(axis=0)]
        own = corners[:, block]
        pairs = np.triu(_overlaps(own, own, threshold), 1)
        gone = np.zeros(len(block), bool)
        for i in np.flatnonzero(pairs.any(axis=1)):
            if not gone[i]:
                gone |= pairs[i]
        stay = np.concatenate((stay, block[~gone]))
        if len(stay) >= limit:
            break
    return stay[:limit]


def _overlaps(a: np.ndarray, b: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Which boxes [4,N] and [4,M] share more than `threshold` of their common area: [N,M]. A box whose ends are not in
    order shares nothing."""
    areas = [(box[1] - box[0]) * (box[3] - box[2]) for box in (a, b)]
    a, b = a[:, :, None], b[:, None, :]
    shared, width = (np.minimum(a[upper], b[upper]) for upper in (1, 3))
    for extent, lower in ((shared, 0), (width, 2)):
        extent -= np.maximum(a[lower], b[lower])
        np.maximum(extent, 0, out=extent)
    shared *= width
    union = np.add.outer(*areas)
    union -= shared
    with np.errstate(all="ignore"):
        found = np.divide(shared, union, out=union) > threshold
    return found if threshold >= 0 else found & (shared > 0)
