"""Non-maximum suppression: of boxes that overlap, only the one with the highest score stays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dtypes
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind
from compiler.ops.sort_keys import stable_order, total_order
from compiler.types import TensorType

_ATTRS = {"center_point_box": 0}
_BLOCK = 128  # candidates whose overlaps are computed together: more costs work, fewer cost calls


@op("nms", onnx=OnnxRow("NonMaxSuppression", _ATTRS), attrs=_ATTRS, host_reason="how many boxes stay is data")
class Nms:
    """Boxes [B,N,4], scores [B,C,N], and optional scalars: most boxes of a class (missing: 0), overlap threshold
    (missing: 0), score threshold (missing: none) -> int64 [count, 3]: image, class, box, by image, class and falling
    score (the first of equal ones first). A box goes where the area it shares with a box that stays, divided by the
    area of both together, is above the overlap threshold, or its score is not above the score threshold. A box is two
    opposite corners (y, x, y, x) or, with center_point_box, (x, y, width, height) around its centre; one without area
    overlaps nothing. Overlaps are computed in the boxes' type, narrow ones in float32."""

    def infer(call: Call) -> list[TensorType]:
        boxes, scores = call.tensor(0), call.tensor(1)
        check_kind(call, call.same_dtype(0, 1), FLOAT)
        if boxes.shape is not None and scores.shape is not None:
            if len(boxes.shape) != 3 or len(scores.shape) != 3:
                call.shape_error(f"boxes {boxes} and scores {scores}; expected [B, N, 4] and [B, C, N]")
            call.same_size(boxes.shape[2], 4, "the coordinates of a box")
            call.same_size(boxes.shape[0], scores.shape[0], "the number of images")
            call.same_size(boxes.shape[1], scores.shape[2], "the number of boxes")
        return [TensorType(dtypes.int64, (call.fresh(), 3))]

    def reference(
        boxes: np.ndarray,
        scores: np.ndarray,
        most: np.ndarray | None = None,
        overlap: np.ndarray | None = None,
        least: np.ndarray | None = None,
        *,
        center_point_box: int,
    ) -> np.ndarray:
        limit = 0 if most is None else min(int(most.reshape(())), boxes.shape[1])
        if limit <= 0:
            return np.zeros((0, 3), np.int64)
        wide = boxes.dtype if boxes.dtype == np.float64 else np.dtype(np.float32)
        threshold = wide.type(0 if overlap is None else overlap.reshape(()))
        wanted = np.ones(scores.shape, bool) if least is None else scores.astype(wide) > least.reshape(())
        found = [np.zeros((0, 3), np.int64)]
        for image, corners in enumerate(_corners(boxes.astype(wide), center_point_box)):
            for kind in np.flatnonzero(wanted[image].any(axis=1)):
                candidates = np.flatnonzero(wanted[image, kind])
                falling = ~total_order(scores[image, kind, candidates])
                candidates = candidates[stable_order(falling[:, None])]
                stay = candidates[_stay(np.ascontiguousarray(corners[:, candidates]), threshold, limit)]
                found.append(np.stack((np.full(len(stay), image), np.full(len(stay), kind), stay), axis=1))
        return np.concatenate(found)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        boxes = rng.uniform(0, 3, (2, 300, 4))
        scores = rng.integers(0, 40, (2, 3, 300)) / 40
        for dtype in (np.float32, np.float64, np.float16):
            operands = (boxes.astype(dtype), scores.astype(dtype))
            limits = (np.array([20]), np.array([0.4], np.float32), np.array([0.3], np.float32))
            yield Sample((*operands, *limits), name=np.dtype(dtype).name)
        single = (boxes.astype(np.float32), scores.astype(np.float32))
        yield Sample((*single, np.array(5), np.array(0.5, np.float32)), {"center_point_box": 1}, name="centre")
        yield Sample((*single, np.array(400), None, np.array(0.9, np.float32)), name="no overlap")
        yield Sample((single[0][:, :1], single[1][..., :1], np.array(3)), name="one box")
        yield Sample((single[0][:, :0], single[1][..., :0], np.array(3)), name="no box")
        yield Sample(single, name="no limit")


def _corners(boxes: np.ndarray, center_point_box: int) -> np.ndarray:
    """Boxes [B,N,4] as [B,4,N]: lower and upper end on one axis, lower and upper end on the other."""
    a, b, c, d = np.moveaxis(boxes, -1, 0)
    if center_point_box:
        half_width, half_height = c / 2, d / 2
        ends = (b - half_height, b + half_height, a - half_width, a + half_width)
    else:
        ends = (np.minimum(a, c), np.maximum(a, c), np.minimum(b, d), np.maximum(b, d))
    return np.stack(ends, axis=1)


def _stay(corners: np.ndarray, threshold: np.floating, limit: int) -> np.ndarray:
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


def _overlaps(a: np.ndarray, b: np.ndarray, threshold: np.floating) -> np.ndarray:
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
