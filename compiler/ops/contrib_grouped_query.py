"""ONNX Runtime's GroupQueryAttention: causal attention whose query heads share heads of keys and values, with rotary
embeddings and caches of which each sequence of the batch has filled as much as it has.
"""

from __future__ import annotations

from typing import Any

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import UnsupportedOp
from compiler.expr import apply, arg, cast, const, index, select
from compiler.ir import Value
from compiler.ops.attention import join_heads, split_heads
from compiler.ops.contrib_attention import add_bias, begin_score, columns, refuse
from compiler.ops.contrib_norm import contrib
from compiler.ops.contrib_rotary import angles, positions_from, rotate
from compiler.ops.core_products import Attention
from compiler.ops.elementwise import emit_map
from compiler.ops.shape import known_shape, listed

_REFUSED_INPUTS = ("11:head_sink", "12:k_scale", "13:v_scale")
_REFUSED_ATTRS = ("smooth_softmax", "qk_output", "kv_cache_bit_width")


def _build(b: Builder, node: Any) -> Any:
    refuse(b, node, _REFUSED_INPUTS, _REFUSED_ATTRS)
    if len(node.outputs) > 3 and node.outputs[3]:
        raise UnsupportedOp(f"{b.place}: {node.op_type} that gives out its scores; only its results are supported")
    q, k, v = _operands(b, node)
    n, heads, length, size = known_shape(q)
    groups = known_shape(k)[1]
    earlier = _earlier(b, node.required(5), length, n)
    if node.attr("do_rotary"):
        places = node.input(9) or positions_from(b, earlier, length)
        cos, sin = (angles(b, node.required(i), places) for i in (7, 8))
        q, k = (rotate(b, x, cos, sin, bool(node.attr("rotary_interleaved"))) for x in (q, k))
    if node.input(3) is not None:
        whole = _whole(b, node, known_shape(node.required(3))[2])
        k, v = (_joined(b, node.required(3 + i), new, earlier, whole) for i, new in enumerate((k, v)))
    members = heads // groups
    result = _attend(b, node, q, k, v, earlier, groups, members)
    joined = join_heads(b, b.emit("reshape", result, b.sizes((n, heads, length, size))))
    return (joined, k, v)[: max(len(node.outputs), 1)]


def _operands(b: Builder, node: Any) -> list[Value]:
    """Queries [N, heads, L, E], keys and values [N, kv heads, L, E]: given apart, or packed in the first input."""
    heads, groups = node.attr("num_heads"), node.attr("kv_num_heads")
    if node.input(1) is not None:
        parts = [node.required(i) for i in range(3)]
    else:
        size = known_shape(node.required(0))[-1] // (heads + 2 * groups)
        parts = columns(b, node.required(0), (heads * size, groups * size, groups * size))
    return [split_heads(b, part, count) for part, count in zip(parts, (heads, groups, groups), strict=True)]


def _earlier(b: Builder, last: Value, length: Size, n: Size) -> Value:
    """How many keys come before the first query, [N] int64; `last` is the last key's position. Where sequences of a
    first call are padded on the right, none do."""
    column = b.emit("reshape", last, b.sizes((n,)))
    size = b.emit("reshape", b.sizes((length,)), b.sizes((1,)))
    count = cast(arg(0, last.type.dtype), dtypes.int64) + 1 - arg(1, dtypes.int64)
    return emit_map(b, apply("max", count, const(0, dtypes.int64)), column, size, hint="earlier")


def _whole(b: Builder, node: Any, held: Size) -> Size:
    """Length of the new caches: that of the old ones, or of the longest sequence if that is more."""
    contents = b.contents(node.required(6))
    if contents is None:
        raise UnsupportedOp(
            f"{b.place}: {node.op_type} with caches and a total_sequence_length computed from data; expected a "
            "constant or a size of an input (Shape of the attention mask)"
        )
    return dims.maximum(held, listed(contents)[0])


def _joined(b: Builder, past: Value, new: Value, earlier: Value, whole: Size) -> Value:
    """Caches [N, groups, `whole`, E]: the `earlier` [N] first rows of the old ones, then the new rows."""
    n, groups, held, size = known_shape(past)
    length = known_shape(new)[2]
    both = b.emit("concat", past, new, axis=2)
    if n == 1 and whole == held + length:
        return both
    sizes = [b.emit("reshape", b.sizes((s,)), b.sizes((1, 1, 1))) for s in (groups, held, length)]
    first, number, old, fresh = (arg(i, dtypes.int64) for i in range(4))
    behind = apply("min", apply("max", index(2) - first, const(0, dtypes.int64)), fresh - 1)
    row = (index(0) * number + index(1)) * (old + fresh) + select(apply("lt", index(2), first), index(2), old + behind)
    column = b.emit("reshape", earlier, b.sizes((n, 1, 1)))
    rows = b.emit("map", column, *sizes, outputs=(row,), shape=(n, groups, whole))
    flat = b.emit("reshape", both, b.sizes((n * groups * (held + length), size)))
    return b.emit("take", flat, rows, axis=0)


def _attend(b: Builder, node: Any, q: Value, k: Value, v: Value, earlier: Value, groups: Size, members: Size) -> Value:
    """[N, kv heads, members, L, E]: one more batch axis, so that no head of keys or values is repeated in memory."""
    n, _, length, size = known_shape(q)
    keys = known_shape(k)[2]
    q = b.emit("reshape", q, b.sizes((n, groups, members, length, size)))
    k, v = (b.emit("reshape", x, b.sizes((n, groups, 1, keys, size))) for x in (k, v))
    score = begin_score(b, node, q)
    if node.attr("softcap"):
        score.expr = apply("tanh", score.expr / node.attr("softcap")) * node.attr("softcap")
    bias = node.input(10)
    if bias is not None:
        first, per_head, *rest = known_shape(bias)
        parts = (1, 1) if per_head == 1 else (groups, members)
        add_bias(score, b.emit("reshape", bias, b.sizes((first, *parts, *rest))))
    position = score.query + score.read(b.emit("reshape", earlier, b.sizes((n, 1, 1, 1, 1))))
    score.keep(apply("le", score.key, position))
    if node.attr("local_window_size") > 0:
        score.keep(apply("lt", position, score.key + node.attr("local_window_size")))
    return b.emit("attention", q, k, v, *score.operands, score=score.expr)


_ATTRS = {
    "do_rotary": 0, "kv_num_heads": None, "local_window_size": -1, "num_heads": None, "qk_output": 0,
    "rotary_interleaved": 0, "scale": 0.0, "smooth_softmax": 0, "softcap": 0.0,
}  # fmt: skip
contrib(Attention, "GroupQueryAttention", _ATTRS, _build)
