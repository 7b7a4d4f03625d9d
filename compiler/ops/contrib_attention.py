"""ONNX Runtime's attention operators (domain com.microsoft) as the core `attention`: what differs is where heads, masks
and caches lie. Meanings are those of onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import UnsupportedOp
from compiler.expr import apply, arg, cast, const, select
from compiler.ir import Value
from compiler.ops.attention import Score, join_heads, split_heads
from compiler.ops.contrib_norm import contrib, total
from compiler.ops.core_products import Attention, accumulator
from compiler.ops.shape import known_shape


def refuse(b: Builder, node: Any, inputs: Sequence[str] = (), attrs: Sequence[str] = ()) -> None:
    """Raise UnsupportedOp for inputs ("number:name") or attributes nobody has taught us."""
    given = [item.partition(":")[2] for item in inputs if node.input(int(item.partition(":")[0])) is not None]
    given += [name for name in attrs if node.attr(name)]
    if given:
        raise UnsupportedOp(f"{b.place}: {node.op_type} with {', '.join(given)}; only a model without is supported")


def columns(b: Builder, x: Value, sizes: Sequence[Size]) -> list[Value]:
    """The last axis cut into parts of these sizes."""
    *outer, _ = known_shape(x)
    parts: list[Value] = []
    start: Size = 0
    for size in sizes:
        starts, steps = (*[0] * len(outer), start), (1,) * (len(outer) + 1)
        parts.append(b.emit("slice", x, starts=starts, sizes=(*outer, size), steps=steps))
        start = start + size
    return parts


def begin_score(b: Builder, node: Any, q: Value) -> Score:
    """The scaled product, which is what masks are added to."""
    width = known_shape(q)[-1]
    scale = node.attr("scale") or None
    if scale is None:
        if not isinstance(width, int):
            raise UnsupportedOp(f"{b.place}: {node.op_type} with head size {width}; a fixed one is needed")
        scale = 1 / math.sqrt(width)
    return Score(b, arg(0, accumulator(q.type.dtype)) * scale, len(known_shape(q)))


def add_bias(score: Score, bias: Value | None) -> None:
    """Add an attention bias, which broadcasts to the scores."""
    if bias is not None:
        score.expr = score.expr + cast(score.read(bias), score.expr.dtype)


def add_mask(b: Builder, node: Any, score: Score, mask: Value | None, batch: Size) -> None:
    """Add `mask_filter_value` to keys that are masked: zeros of [N, S] or [N, L, S], positions from [N] on, or those
    outside of a range, ends then starts [2 N]."""
    if mask is None:
        return
    shape = known_shape(mask)
    allowed = None
    if len(shape) == 1:
        for start, size in ((0, batch), (batch, shape[0] - batch)):
            if size == 0 or (start != 0 and shape[0] == batch):
                continue
            if size != batch:
                raise UnsupportedOp(f"{b.place}: {node.op_type} with a mask of {shape[0]} numbers; expected {batch}")
            bounds = b.emit("slice", mask, starts=(start,), sizes=(size,), steps=(1,))
            bound = cast(score.read(b.emit("reshape", bounds, b.sizes((batch, 1, 1, 1)))), dtypes.int64)
            inside = apply("lt", score.key, bound) if start == 0 else apply("le", bound, score.key)
            allowed = inside if allowed is None else apply("and", allowed, inside)
    elif len(shape) < 4:
        rows = (shape[0], 1, *((1,) if len(shape) == 2 else ()), *shape[1:])
        read = score.read(b.emit("reshape", mask, b.sizes(rows)))
        allowed = apply("gt", read, const(0, read.dtype))
    else:
        raise UnsupportedOp(f"{b.place}: {node.op_type} with a mask of shape {shape}; expected at most 3 axes")
    assert allowed is not None
    dtype = score.expr.dtype
    score.expr = score.expr + select(allowed, const(0.0, dtype), const(node.attr("mask_filter_value"), dtype))


def finish(b: Builder, node: Any, score: Score, q: Value, k: Value, v: Value, past: Size) -> Value:
    """Attention from [N, heads, L, E] operands, heads joined."""
    if node.attr("unidirectional"):
        score.keep(apply("le", score.key, score.query + score.size(past)))
    return join_heads(b, b.emit("attention", q, k, v, *score.operands, score=score.expr))


def attention(b: Builder, node: Any) -> Any:
    """Self-attention and its projection: x [N, L, D] times weights [D, Dq + Dk + Dv]; caches [2, N, heads, S, E]."""
    refuse(b, node, ("6:past_sequence_length",), ("do_rotary", "past_present_share_buffer"))
    x, weights, bias, mask, past, added = (node.input(i) for i in range(6))
    product = b.emit("matmul", x, weights)
    projected = product if bias is None else total(b, [product, bias])
    width = known_shape(projected)[-1]
    sizes = node.attr("qkv_hidden_sizes") or (width // 3,) * 3
    q, k, v = (split_heads(b, part, node.attr("num_heads")) for part in columns(b, projected, sizes))
    before: Size = 0
    if past is not None:
        _, *rest = known_shape(past)
        before = rest[2]
        caches = [b.emit("slice", past, starts=(i, 0, 0, 0, 0), sizes=(1, *rest), steps=(1,) * 5) for i in (0, 1)]
        k, v = (
            b.emit("concat", b.emit("reshape", cache, b.sizes(tuple(rest))), new, axis=2)
            for cache, new in zip(caches, (k, v), strict=True)
        )
    score = begin_score(b, node, q)
    add_mask(b, node, score, mask, known_shape(q)[0])
    add_bias(score, added)
    result = finish(b, node, score, q, k, v, before)
    if len(node.outputs) < 2:
        return result
    return result, b.emit("concat", *(b.emit("reshape", c, b.sizes((1, *known_shape(c)))) for c in (k, v)), axis=0)


def _unpacked(b: Builder, x: Value, parts: int) -> list[Value]:
    """[N, L, heads, parts, E] as `parts` tensors [N, heads, L, E]."""
    n, length, heads, _, size = known_shape(x)
    turned = b.emit("transpose", x, perm=(3, 0, 2, 1, 4))
    rows = (1, n, heads, length, size)
    cut = [b.emit("slice", turned, starts=(i, 0, 0, 0, 0), sizes=rows, steps=(1,) * 5) for i in range(parts)]
    return [b.emit("reshape", part, b.sizes(rows[1:])) for part in cut]


def _multi_head(b: Builder, node: Any) -> Any:
    """Attention of projected queries, keys and values, apart or packed, with a bias of theirs and caches."""
    refuse(b, node, ("8:past_sequence_length", "9:cache_indirection"))
    query, key, value, bias, mask, added, past_key, past_value = (node.input(i) for i in range(8))
    heads, asked = node.attr("num_heads"), len(node.outputs)
    packed = key is None or value is None
    if bias is not None and (packed or len(known_shape(key)) != 3):  # type: ignore[arg-type]
        raise UnsupportedOp(f"{b.place}: MultiHeadAttention with a bias; expected keys and values of 3 axes with it")
    if asked > 3 and node.outputs[3]:
        raise UnsupportedOp(f"{b.place}: MultiHeadAttention that gives out its scores; only its results are supported")
    if bias is not None:
        sizes = [known_shape(x)[-1] for x in (query, key, value)]  # type: ignore[arg-type]
        parts = columns(b, bias, sizes)
        query, key, value = (total(b, [x, part]) for x, part in zip((query, key, value), parts, strict=True))  # type: ignore[list-item]
    if key is None:
        q, k, v = _unpacked(b, query, 3)
    else:
        q = split_heads(b, query, heads)
        k, v = _unpacked(b, key, 2) if value is None else (split_heads(b, x, heads) for x in (key, value))
    before: Size = 0
    if past_key is not None:
        before = known_shape(past_key)[2]
        k, v = (b.emit("concat", past, new, axis=2) for past, new in ((past_key, k), (past_value, v)))
    score = begin_score(b, node, q)
    add_mask(b, node, score, mask, known_shape(q)[0])
    add_bias(score, added)
    return (finish(b, node, score, q, k, v, before), k, v)[: max(asked, 1)]


ATTENTION = {
    "do_rotary": 0, "mask_filter_value": -10000.0, "num_heads": None, "past_present_share_buffer": 0,
    "qkv_hidden_sizes": None, "rotary_embedding_dim": 0, "scale": 0.0, "unidirectional": 0,
}  # fmt: skip
_MULTI_HEAD = {"mask_filter_value": -10000.0, "num_heads": None, "scale": 0.0, "unidirectional": 0}
contrib(Attention, "Attention", ATTENTION, attention)
contrib(Attention, "MultiHeadAttention", _MULTI_HEAD, _multi_head)
