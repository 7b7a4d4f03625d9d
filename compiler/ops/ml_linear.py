"""Linear models of ONNX's ml domain, and what every model there does with its scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.dtypes import float32, int64
from compiler.expr import apply, arg, const, select
from compiler.ir import Value
from compiler.op import OnnxRow
from compiler.ops.elementwise import emit_map
from compiler.ops.ml_features import ML, in_float
from compiler.ops.onnx_types import onnx_row
from compiler.ops.shape import known_shape

POST_TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX")  # the others (SOFTMAX_ZERO, PROBIT) are left to a Host step


def transformed(b: Builder, scores: Value, post: str) -> Value:
    """Scores [N, classes] as probabilities, or as they are; one of POST_TRANSFORMS."""
    if post == "SOFTMAX":
        return b.emit("softmax", scores, axes=(-1,))
    return emit_map(b, apply("sigmoid", arg(0, scores.type.dtype)), scores) if post == "LOGISTIC" else scores


def two_classes(b: Builder, score: Value, complement: bool) -> Value:
    """The scores of both classes from that of the second [N, 1]: 1 - score, or its negative, for the first."""
    other = arg(0, score.type.dtype)
    first = emit_map(b, const(1, other.dtype) - other if complement else -other, score)
    return b.emit("concat", first, score, axis=1)


def labels_of(b: Builder, scores: Value, labels: tuple[int, ...]) -> Value:
    """The label [N] of the highest score, the first of equal ones."""
    place = b.emit("arg_max", scores, axis=1, keepdims=0)
    return place if labels == tuple(range(len(labels))) else b.emit("take", b.constant(np.array(labels)), place, axis=0)


def _scores(b: Builder, node: Any, targets: int | None) -> Value:
    """x @ coefficients^T + intercepts: [N, targets]."""
    x = in_float(b, node.required(0))
    dtype = x.type.dtype
    features = known_shape(x)[-1]
    coefficients = np.array(node.attrs["coefficients"], dtype.numpy)
    matrix = coefficients.reshape(-1, features) if targets is None else coefficients.reshape(targets, -1)  # type: ignore[arg-type]
    product = b.emit("matmul", x, b.constant(np.ascontiguousarray(matrix.T), "coefficients"))
    intercepts = node.attr("intercepts")
    if not intercepts:
        return product
    added = b.constant(np.array(intercepts, dtype.numpy), "intercepts")
    return emit_map(b, arg(0, dtype) + arg(1, dtype), product, added)


def as_float32(b: Builder, x: Value) -> Value:
    """Scores in the type the operators give them in."""
    return in_float(b, x, float32)


def _regressor(b: Builder, node: Any) -> Any:
    post = node.attrs["post_transform"]
    if post not in POST_TRANSFORMS or len(known_shape(node.required(0))) != 2:
        return NotImplemented
    return as_float32(b, transformed(b, _scores(b, node, node.attrs["targets"]), post))


def _classifier(b: Builder, node: Any) -> Any:
    labels, post = node.attr("classlabels_ints"), node.attrs["post_transform"]
    shape = known_shape(node.required(0))
    if not labels or post not in POST_TRANSFORMS or len(shape) != 2 or not isinstance(shape[1], int):
        return NotImplemented  # labels that are strings, or none
    scores = _scores(b, node, None)
    if known_shape(scores)[1] == 1 and len(labels) == 2:
        scores = two_classes(b, scores, complement=False)
    scores = transformed(b, scores, post)
    if known_shape(scores)[1] != 1:
        return labels_of(b, scores, tuple(labels)), as_float32(b, scores)
    dtype = scores.type.dtype
    enough = apply("ge", arg(0, dtype), const(0 if post == "NONE" else 0.5, dtype))
    label = emit_map(b, select(enough, const(labels[0], int64), const(0, int64)), scores)
    return b.emit("reshape", label, b.sizes((-1,))), as_float32(b, scores)


onnx_row("matmul", OnnxRow("LinearRegressor", {"post_transform": "NONE", "targets": 1}, ML, _regressor))
onnx_row("matmul", OnnxRow("LinearClassifier", {"post_transform": "NONE"}, ML, _classifier))
