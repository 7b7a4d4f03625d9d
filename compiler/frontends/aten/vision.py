"""torchvision's operators."""

from __future__ import annotations

import numpy as np

from compiler.frontends.aten.base import AtenBuilder, aten, reshape, shape_of, slice_axis
from compiler.ir import Value


@aten("torchvision.nms.default")
def _nms(b: AtenBuilder, boxes: Value, scores: Value, overlap: float) -> Value:
    # One image, one kind of box; every box may stay.
    count = shape_of(boxes)[0]
    threshold = b.constant(np.array(overlap, np.float64), "overlap")
    operands = (reshape(b, boxes, [1, count, 4]), reshape(b, scores, [1, 1, count]), b.sizes((count,)), threshold)
    chosen = b.emit("nms", *operands)
    stay = shape_of(chosen)[0]
    return reshape(b, slice_axis(b, chosen, 1, 2, 1), [stay])
