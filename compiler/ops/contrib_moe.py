"""ONNX Runtime's mixture of experts: every token goes through the k experts its router likes best.

Rows are sorted by expert, so that each expert's are a group of one grouped product; how many there are of each is read
when running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import UnsupportedOp
from compiler.expr import Expr, apply, arg, cast, const, index, stat
from compiler.ir import Value
from compiler.kernels import Stage
from compiler.ops.activation import gelu, maximum, minimum
from compiler.ops.contrib_attention import refuse
from compiler.ops.contrib_norm import contrib
from compiler.ops.core_grouped import GroupedMatmul
from compiler.ops.elementwise import emit_map, operand
from compiler.ops.shape import known_shape

_ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": lambda x: maximum(x, 0),
    "gelu": lambda x: gelu(x, approximate="tanh"),
    "silu": lambda x: x * apply("sigmoid", x),
    "identity": lambda x: x,
}
_SWIGLU = "swiglu"
_INTERLEAVED, _HALVES = 1, 2  # values of swiglu_fusion


def sort_rows(b: Builder, experts: Value, count: Size) -> tuple[Value, Value]:
    """For experts [S]: the order that sorts rows by them, equal ones as they were, and where each expert's end."""
    (rows,) = known_shape(experts)
    _, order = b.emit_many(
        "top_k", (experts, b.sizes((rows,))), {"axis": 0, "largest": 0, "sorted": 1}, ("sorted", "order")
    )
    column = b.emit("reshape", experts, b.sizes((rows, 1)))
    numbers = b.emit("map", outputs=(index(0),), shape=(count,))
    before = cast(apply("le", arg(0, dtypes.int64), arg(1, dtypes.int64)), dtypes.int64)
    row = (stat(0, dtypes.int64),)
    ends = b.emit("reduce", column, numbers, axes=(0,), keepdims=False, stages=(Stage("sum", before),), rows=row)
    return order, ends


def _build(b: Builder, node: Any) -> Value:
    refuse(b, node, ("6:fc3_experts_weights", "7:fc3_experts_bias"), ("use_sparse_mixer",))
    x, router, up, up_bias, down, down_bias = (node.input(i) for i in range(6))
    *outer, width = known_shape(x)
    k, experts = node.attr("k"), known_shape(up)[0]
    tokens = dims.product(outer)
    weights, chosen = _route(b, b.emit("reshape", router, b.sizes((tokens, experts))), k, node)
    flat = b.emit("reshape", chosen, b.sizes((tokens * k,)))
    order, ends = sort_rows(b, flat, experts)
    of_row = emit_map(b, apply("div", arg(0, dtypes.int64), const(k, dtypes.int64)), order, hint="token")
    rows = b.emit("take", b.emit("reshape", x, b.sizes((tokens, width))), of_row, axis=0)
    expert_of_row = b.emit("take", flat, order, axis=0)
    hidden = _activated(b, node, _linear(b, rows, up, up_bias, ends, expert_of_row))
    results = _linear(b, hidden, down, down_bias, ends, expert_of_row)
    _, inverse = b.emit_many(
        "top_k", (order, b.sizes((tokens * k,))), {"axis": 0, "largest": 0, "sorted": 1}, ("sorted", "inverse")
    )
    results = b.emit("take", results, inverse, axis=0)
    parts = b.emit("reshape", results, b.sizes((tokens, k, known_shape(results)[-1])))
    share = b.emit("reshape", weights, b.sizes((tokens, k, 1)))
    stage = Stage("sum", operand(0, parts) * operand(1, share))
    row = cast(stat(0, stage.expr.dtype), x.type.dtype)
    summed = b.emit("reduce", parts, share, axes=(1,), keepdims=False, stages=(stage,), rows=(row,))
    return b.emit("reshape", summed, b.sizes((*outer, width)))


def _route(b: Builder, router: Value, k: int, node: Any) -> tuple[Value, Value]:
    """Shares and numbers [T, k] of the experts chosen: softmax over all of them, or over those chosen."""
    attrs = {"axis": -1, "largest": 1, "sorted": 1}
    normalize = node.attr("normalize_routing_weights")
    scores = router if normalize else b.emit("softmax", router, axis=-1)
    best, chosen = b.emit_many("top_k", (scores, b.sizes((k,))), attrs, ("best", "chosen"))
    return (b.emit("softmax", best, axis=-1) if normalize else best), chosen


def _linear(b: Builder, rows: Value, weight: Value, bias: Value | None, ends: Value, experts: Value) -> Value:
    """Each row times the transposed matrix of its expert (weight [E, N, K]), plus its bias [E, N]."""
    product = b.emit("grouped_matmul", rows, b.emit("transpose", weight, perm=(0, 2, 1)), ends)
    if bias is None:
        return product
    added = b.emit("take", bias, experts, axis=0)
    return emit_map(b, cast(operand(0, product) + operand(1, added), product.type.dtype), product, added)


def _activated(b: Builder, node: Any, x: Value) -> Value:
    kind = node.attr("activation_type")
    if kind in _ACTIVATIONS:
        return emit_map(b, cast(_ACTIVATIONS[kind](operand(0, x)), x.type.dtype), x, hint=kind)
    fusion = node.attr("swiglu_fusion")
    if kind != _SWIGLU or fusion not in (_INTERLEAVED, _HALVES):
        known = ", ".join((*_ACTIVATIONS, "swiglu with swiglu_fusion 1 or 2"))
        raise UnsupportedOp(f"{b.place}: MoE with activation {kind} and swiglu_fusion {fusion}; expected {known}")
    rows, width = known_shape(x)
    half, step = width // 2, 2 if fusion == _INTERLEAVED else 1
    starts = (0, 1 if fusion == _INTERLEAVED else half)
    parts = [b.emit("slice", x, starts=(0, start), sizes=(rows, half), steps=(1, step)) for start in starts]
    gate, linear = operand(0, parts[0]), operand(1, parts[1])
    limit = node.attr("swiglu_limit")
    if limit is not None:
        gate, linear = minimum(gate, limit), maximum(minimum(linear, limit), -limit)
    value = gate * apply("sigmoid", gate * node.attr("activation_alpha")) * (linear + node.attr("activation_beta"))
    return emit_map(b, cast(value, x.type.dtype), *parts, hint=kind)


_ATTRS = {
    "activation_alpha": 1.0, "activation_beta": 0.0, "activation_type": "relu", "k": 1, "normalize_routing_weights": 0,
    "swiglu_fusion": 0, "swiglu_limit": None, "use_sparse_mixer": 0,
}  # fmt: skip
contrib(GroupedMatmul, "MoE", _ATTRS, _build)
