"""torchvision's operators."""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.expr import apply, arg, const
from compiler.frontends.aten.base import AtenBuilder, aten, reshape, shape_of
from compiler.ir import Value
from compiler.ops.elementwise import emit_map


@aten("torchvision.nms.default")
def _nms(b: AtenBuilder, boxes: Value, scores: Value, overlap: float) -> Value:
    # One image, one kind of box; every box may stay.
    count = shape_of(boxes)[0]
    threshold = b.constant(np.array(overlap, np.float64), "overlap")
    operands = (reshape(b, boxes, [1, count, 4]), reshape(b, scores, [1, 1, count]), None, threshold)
    chosen = b.emit("nms", *operands)
    there = emit_map(b, apply("ge", arg(0, dtypes.int64), const(0, dtypes.int64)), chosen)
    return b.emit("compress", reshape(b, chosen, [count]), reshape(b, there, [count]), axis=0)
