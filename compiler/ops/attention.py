"""ONNX Attention as the core `attention`: heads split, caches joined, masks and windows in the score expression."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, cast, const, index, select
from compiler.ir import Value
from compiler.op import OnnxRow
from compiler.ops.core_products import accumulator
from compiler.ops.onnx_types import onnx_row
from compiler.ops.shape import known_shape


def split_heads(b: Builder, x: Value, heads: int | None) -> Value:
    """[N, L, heads * E] as [N, heads, L, E]; a tensor of rank 4 as it is."""
    shape = known_shape(x)
    if len(shape) == 4:
        return x
    n, length, hidden = shape
    assert heads, "the schema asks for the number of heads with 3-d operands"
    parted = b.emit("reshape", x, b.sizes((n, length, heads, hidden // heads)))
    return b.emit("transpose", parted, perm=(0, 2, 1, 3))


def join_heads(b: Builder, x: Value) -> Value:
    """[N, heads, L, E] as [N, L, heads * E]."""
    n, heads, length, size = known_shape(x)
    turned = b.emit("transpose", x, perm=(0, 2, 1, 3))
    return b.emit("reshape", turned, b.sizes((n, length, heads * size)))


class Score:
    """The score expression being built, and the operands it reads; `rank` is that of the score tensor."""

    def __init__(self, b: Builder, dot: Expr, rank: int) -> None:
        self.expr, self.operands = dot, list[Value]()
        self._b, self._rank = b, rank

    def read(self, value: Value) -> Expr:
        """The element of an operand that broadcasts to the score tensor."""
        self.operands.append(value)
        return arg(len(self.operands), value.type.dtype)

    def size(self, size: Size) -> Expr:
        """A size as int64."""
        if isinstance(size, int):
            return const(size, dtypes.int64)
        return self.read(self._b.emit("reshape", self._b.sizes((size,)), self._b.sizes((1,) * self._rank)))

    def keep(self, allowed: Expr) -> None:
        """Only the keys where `allowed` holds."""
        self.expr = select(allowed, self.expr, const(-math.inf, self.expr.dtype))

    @property
    def query(self) -> Expr:
        """The query's position."""
        return index(self._rank - 2)

    @property
    def key(self) -> Expr:
        """The key's position."""
        return index(self._rank - 1)


def _grouped(b: Builder, x: Value, groups: Size, members: int) -> Value:
    """[N, groups * members, ..] as [N, groups, members, ..]."""
    n, _, *rest = known_shape(x)
    return b.emit("reshape", x, b.sizes((n, groups, members, *rest)))


def _mask(b: Builder, mask: Value, keys: Size, groups: Size, members: int) -> Value:
    """A mask with the rank of the score tensor, shorter ones padded with "no"."""
    shape = known_shape(mask)
    if isinstance(shape[-1], int) and isinstance(keys, int) and 1 < shape[-1] < keys:
        missing = (*[0] * (len(shape) - 1), keys - shape[-1])
        dtype = mask.type.dtype
        no = b.constant(False) if dtype == dtypes.boolean else b.constant(-math.inf, dtype=dtype)
        mask = b.emit("pad", mask, no, before=(0,) * len(shape), after=missing, mode="constant")
        shape = known_shape(mask)
    shape = (*[1] * (4 - len(shape)), *shape)
    if members == 1:
        return b.emit("reshape", mask, b.sizes(shape))
    heads = (1, 1) if shape[1] == 1 else (groups, members)
    return b.emit("reshape", mask, b.sizes((shape[0], *heads, *shape[2:])))


def _build(b: Builder, node: Any) -> Any:
    if len(node.outputs) > 3 and node.outputs[3]:
        return NotImplemented  # the scores themselves are wanted
    q, k, v = (
        split_heads(b, node.required(i), node.attr(name))
        for i, name in enumerate(("q_num_heads", "kv_num_heads", "kv_num_heads"))
    )
    heads, groups, width = known_shape(q)[1], known_shape(k)[1], known_shape(q)[3]
    if not (isinstance(heads, int) and isinstance(groups, int) and isinstance(width, int)):
        return NotImplemented
    past: Size = 0
    if node.input(4) is not None:
        past = known_shape(node.required(4))[2]
        k, v = (b.emit("concat", node.required(4 + i), new, axis=2) for i, new in enumerate((k, v)))
    present = (k, v)
    members, rank = heads // groups, 4
    if members > 1:
        q, k, v, rank = _grouped(b, q, groups, members), _grouped(b, k, groups, 1), _grouped(b, v, groups, 1), 5
    score = _score(b, node, q, known_shape(k)[-2], past, lambda m, s: _mask(b, m, s, groups, members), width)
    result = b.emit("attention", q, k, v, *score.operands, score=score.expr)
    if rank == 5:
        n, _, _, length, size = known_shape(result)
        result = b.emit("reshape", result, b.sizes((n, heads, length, size)))
    if len(known_shape(node.required(0))) == 3:
        result = join_heads(b, result)
    return (result, *present)[: max(len(node.outputs), 1)]


def _score(
    b: Builder, node: Any, q: Value, keys: Size, past: Size, shaped: Callable[[Value, Size], Value], width: int
) -> Score:
    """scale, soft cap, mask, causal and window bounds, in ONNX's order."""
    acc = accumulator(q.type.dtype)
    scale = node.attr("scale")
    rank = len(known_shape(q))
    score = Score(b, arg(0, acc) * (1 / math.sqrt(width) if scale is None else scale), rank)
    if node.attr("softcap", 0.0):
        score.expr = apply("tanh", score.expr / node.attrs["softcap"]) * node.attrs["softcap"]
    mask = node.input(3)
    if mask is not None:
        read = score.read(shaped(mask, keys))
        if read.dtype == dtypes.boolean:
            score.keep(read)
        else:
            score.expr = score.expr + cast(read, acc)
    offset = _bound_by_length(b, node, score, q, rank) or score.size(past)
    left, right = node.attr("left_window_size", -1), node.attr("right_window_size", -1)
    right = 0 if node.attr("is_causal", 0) else right
    if right >= 0:
        score.keep(apply("le", score.key, score.query + offset + right))
    if left >= 0:
        score.keep(apply("le", score.query + offset, score.key + left))
    return score


def _bound_by_length(b: Builder, node: Any, score: Score, q: Value, rank: int) -> Expr | None:
    """With a number of valid keys per batch, only these; answers how many come before the first query."""
    lengths = node.input(6)
    if lengths is None:
        return None
    column = b.emit("reshape", lengths, b.sizes((-1, *[1] * (rank - 1))))
    valid = cast(score.read(column), dtypes.int64)
    score.keep(apply("lt", score.key, valid))
    return valid - score.size(known_shape(q)[-2])


_ATTRS = {
    "is_causal": 0,
    "kv_num_heads": None,
    "left_window_size": -1,
    "q_num_heads": None,
    "qk_matmul_output_mode": 0,
    "right_window_size": -1,
    "scale": None,
    "softcap": 0.0,
    "softmax_precision": None,
}
onnx_row("attention", OnnxRow("Attention", _ATTRS, build=_build))
