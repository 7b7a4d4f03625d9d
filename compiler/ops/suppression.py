"""Non-maximum suppression: of boxes that overlap, only the one with the highest score stays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, const, index, select
from compiler.frontends.onnx_node import OnnxNode
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.core_suppress import Suppress
from compiler.ops.elementwise import FLOAT, check_kind, emit_map
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ONNX_ATTRS = {"center_point_box": 0}
_ATTRS = {**_ONNX_ATTRS, "columns": None}


def _build(b: Builder, node: OnnxNode) -> Value:
    boxes, scores, most = node.required(0), node.required(1), node.input(2)
    columns = None
    contents = np.zeros(1, np.int64) if most is None else b.contents(most)
    if contents is not None and contents.dtype != object:
        most, columns = None, max(int(contents.reshape(())), 0)
    chosen = b.emit("nms", boxes, scores, most, node.input(3), node.input(4), columns=columns, **node.attrs)
    return _listed(b, chosen, node.outputs[0])


def _listed(b: Builder, chosen: Value, hint: str) -> Value:
    """Boxes chosen of each class [B,C,K] (-1: none) as rows (image, class, box) [count, 3]."""
    shape = known_shape(chosen)
    total = dims.product(shape)
    column = b.emit("reshape", chosen, b.sizes((*shape, 1)))
    number, one = index(3), const(1, dtypes.int64)
    outer = select(apply("lt", number, one), index(0), index(1))
    triple = select(apply("gt", number, one), arg(0, dtypes.int64), outer)
    triples = b.emit("map", column, outputs=(triple,), shape=(*shape, 3))
    there = emit_map(b, apply("ge", arg(0, dtypes.int64), const(0, dtypes.int64)), chosen)
    rows = b.emit("reshape", triples, b.sizes((total, 3)))
    return b.emit("compress", rows, b.emit("reshape", there, b.sizes((total,))), axis=0, hint=hint)


@op("nms", onnx=OnnxRow("NonMaxSuppression", _ONNX_ATTRS, build=_build), attrs=_ATTRS)
class Nms:
    """Boxes [B,N,4], scores [B,C,N], and optional scalars: most boxes of a class (missing: all), overlap threshold
    (missing: 0), score threshold (missing: none) -> int64 [B,C,K]: which boxes stay, by falling score (the first of
    equal ones first), then -1. K is N, or at most `columns`. A box goes where the area it shares with a box that stays,
    divided by the area of both together, is above the overlap threshold, or its score is not above the score threshold.
    A box is two opposite corners (y, x, y, x) or, with center_point_box, (x, y, width, height) around its centre; one
    without area overlaps nothing. All is computed in the boxes' type, narrow ones in float32. (ONNX's operator lists
    image, class and box of those that stay: how many is data.)"""

    def infer(call: Call) -> list[TensorType]:
        boxes, scores, columns = call.tensor(0), call.tensor(1), call.attrs["columns"]
        check_kind(call, call.same_dtype(0, 1), FLOAT)
        for shape in (boxes.shape, scores.shape):
            if shape is not None and len(shape) != 3:
                call.shape_error(f"boxes {boxes} and scores {scores}; expected [B, N, 4] and [B, C, N]")
        for i in range(2, 5):
            scalar = call.optional(i)
            if scalar is not None and scalar.shape is not None:
                call.same_size(dims.product(scalar.shape), 1, f"the number of elements of operand {i}, a scalar,")
        if boxes.shape is None or scores.shape is None:
            return [TensorType(dtypes.int64, tuple(call.fresh() for _ in range(3)))]
        call.same_size(boxes.shape[2], 4, "the coordinates of a box")
        call.same_size(boxes.shape[0], scores.shape[0], "the number of images")
        count = call.same_size(boxes.shape[1], scores.shape[2], "the number of boxes")
        return [
            TensorType(dtypes.int64, (*scores.shape[:2], count if columns is None else dims.minimum(count, columns)))
        ]

    def reference(
        boxes: np.ndarray,
        scores: np.ndarray,
        most: np.ndarray | None = None,
        overlap: np.ndarray | None = None,
        least: np.ndarray | None = None,
        *,
        center_point_box: int,
        columns: int | None,
    ) -> np.ndarray:
        wide = boxes.dtype if boxes.dtype == np.float64 else np.dtype(np.float32)
        assert Suppress.reference is not None
        chosen: np.ndarray = Suppress.reference(
            boxes.astype(wide),
            scores.astype(wide),
            None if most is None else most.reshape(()),
            np.zeros((), wide) if overlap is None else overlap.reshape(()).astype(wide),
            None if least is None else least.reshape(()).astype(wide),
            center_point_box=center_point_box,
            columns=columns,
        )
        return chosen

    def decompose(b: Builder, node: Node) -> Value | None:
        boxes, scores, *scalars = node.inputs
        assert isinstance(boxes, Value) and isinstance(scores, Value)
        if any(value is not None and value.type.shape is None for value in node.inputs):  # type: ignore[union-attr]
            return None
        wide = boxes.type.dtype if boxes.type.dtype == dtypes.float64 else dtypes.float32  # type: ignore[union-attr]
        most, overlap, least = (*scalars, None, None, None)[:3]
        boxes, scores = _as(b, boxes, wide), _as(b, scores, wide)
        limits = (
            None if most is None else _scalar(b, most, dtypes.int64),
            b.constant(0.0, dtype=wide) if overlap is None else _scalar(b, overlap, wide),
            None if least is None else _scalar(b, least, wide),
        )
        return b.emit("suppress", boxes, scores, *limits, **node.attrs)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        boxes = rng.uniform(0, 3, (2, 300, 4))
        scores = rng.integers(0, 40, (2, 3, 300)) / 40
        for dtype in (np.float32, np.float64, np.float16, dtypes.bfloat16.numpy):
            operands = (boxes.astype(dtype), scores.astype(dtype))
            limits = (np.array([20]), np.array([0.4], np.float32), np.array([0.3], np.float32))
            yield Sample((*operands, *limits), name=np.dtype(dtype).name)
        single = (boxes.astype(np.float32), scores.astype(np.float32))
        yield Sample((*single, np.array(5), np.array(0.5, np.float32)), {"center_point_box": 1}, name="centre")
        yield Sample((*single, np.array(400), None, np.array(0.9, np.float32)), name="no overlap")
        yield Sample((single[0][:, :1], single[1][..., :1], np.array(3)), name="one box")
        yield Sample((single[0][:, :0], single[1][..., :0], np.array(3)), name="no box")
        yield Sample(single, name="no limit")
        yield Sample((*single, None, np.array(0.3, np.float32)), {"columns": 7}, name="columns")
        yield Sample((*single, None, np.array(0.3, np.float32)), {"columns": 0}, name="none")


def _as(b: Builder, x: Value, dtype: dtypes.DType) -> Value:
    return x if x.type.dtype == dtype else b.emit("cast", x, to=dtype)  # type: ignore[union-attr]


def _scalar(b: Builder, x: Value, dtype: dtypes.DType) -> Value:
    return _as(b, b.emit("reshape", x, b.sizes(())), dtype)
