"""Rotary embeddings as ONNX Runtime writes them (J. Su et al., arXiv 2104.09864): pairs of a head's elements are turned
by angles that grow with the position; the tables hold the angles' cosines and sines.
"""

from __future__ import annotations

from typing import Any

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import UnsupportedOp
from compiler.expr import arg, cast, index
from compiler.ir import Value
from compiler.ops.attention import join_heads, split_heads
from compiler.ops.contrib_norm import contrib
from compiler.ops.core_moves import Concat
from compiler.ops.elementwise import operand
from compiler.ops.shape import known_shape


def rotate(b: Builder, x: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """x [N, heads, L, E] with its first R elements turned; cos and sin [N or 1, 1, L, R / 2]. Pairs are (i, i + R / 2),
    or neighbours where `interleaved`."""
    half = known_shape(cos)[-1]
    *outer, size = known_shape(x)

    def part(start: Size, count: Size, step: int) -> Value:
        starts, steps = (*[0] * len(outer), start), (*[1] * len(outer), step)
        return b.emit("slice", x, starts=starts, sizes=(*outer, count), steps=steps)

    first = part(0, half, 2 if interleaved else 1)
    second = part(1 if interleaved else half, half, 2 if interleaved else 1)
    p, q, c, s = (operand(i, v) for i, v in enumerate((first, second, cos, sin)))
    outputs = tuple(cast(e, x.type.dtype) for e in (p * c - q * s, p * s + q * c))
    attrs = {"outputs": outputs, "shape": None}
    turned = b.emit_many("map", (first, second, cos, sin), attrs, ("rotated", "rotated"))
    if interleaved:
        columns = [b.emit("reshape", v, b.sizes((*outer, half, 1))) for v in turned]
        pairs = b.emit("concat", *columns, axis=len(outer) + 1)
        turned = (b.emit("reshape", pairs, b.sizes((*outer, half * 2))),)
    rest = () if half * 2 == size else (part(half * 2, size - half * 2, 1),)
    parts = (*turned, *rest)
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=len(outer))


def angles(b: Builder, table: Value, positions: Value) -> Value:
    """Rows of a table [positions, R / 2] at [N, L], for heads: [N, 1, L, R / 2]."""
    n, length = known_shape(positions)
    rows = b.emit("take", table, positions, axis=0)
    return b.emit("reshape", rows, b.sizes((n, 1, length, known_shape(table)[-1])))


def positions_from(b: Builder, first: Value, length: Size) -> Value:
    """[N, length] positions in a row from first [N] on, int64."""
    (n,) = known_shape(first)
    column = b.emit("reshape", first, b.sizes((n, 1)))
    start = cast(arg(0, first.type.dtype), dtypes.int64)
    return b.emit("map", column, outputs=(start + index(1),), shape=(n, length))


def _build(b: Builder, node: Any) -> Value:
    x, places, cos, sin = (node.required(i) for i in range(4))
    for name, usual in (("scale", 1.0), ("is_packed_batching", 0)):
        if node.attr(name) != usual:
            raise UnsupportedOp(f"{b.place}: RotaryEmbedding with {name} {node.attr(name)}; only {usual} is supported")
    shape = known_shape(x)
    half = known_shape(cos)[-1]
    heads: Any = node.attr("num_heads") or (None if len(shape) == 4 else shape[-1] // (half * 2))
    split = split_heads(b, x, heads)
    length = known_shape(split)[2]
    if len(known_shape(places)) == 1:
        places = positions_from(b, places, length)
    turned = rotate(b, split, angles(b, cos, places), angles(b, sin, places), bool(node.attr("interleaved")))
    return turned if len(shape) == 4 else join_heads(b, turned)


_ATTRS = {"interleaved": 0, "is_packed_batching": 0, "num_heads": 0, "rotary_embedding_dim": 0, "scale": 1.0}
contrib(Concat, "RotaryEmbedding", _ATTRS, _build)
