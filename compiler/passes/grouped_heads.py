"""Grouped-query attention without copies: where several query heads share a head of keys or values, the products get
one more batch axis instead of keys and values repeated in memory.

Models repeat heads by adding an axis, expanding it and merging it with the heads': [B, H, S, E] becomes
[B, H, 1, S, E], [B, H, G, S, E], [B, H*G, S, E], and no strides express the last. With the head axis of every other
operand split into [H, G], which moves nothing, the product reads the second of these.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, index, transform
from compiler.ir import Graph, Node, Value
from compiler.rewrite import Replacement, rewrite
from compiler.types import TensorType

_SHARED = {"attention": (1, 2), "matmul": (0, 1)}  # operands of each product that may repeat along a batch axis


def group_heads(graph: Graph) -> Graph:
    """`graph` with repeated heads read in place by the products that want them."""
    return rewrite(graph, dict.fromkeys(_SHARED, _Rule()))


@dataclass(frozen=True)
class _Repeated:
    """`source` [.., H, G, ..], a view, stands for a value whose axis `axis` merges these two."""

    source: Value
    axis: int
    groups: Size
    members: Size


class _Rule:
    """The rewriting rule; knows who produces what."""

    def __init__(self) -> None:
        self._producers: dict[str, Node] = {}
        self._seen = 0

    def __call__(self, b: Builder, node: Node) -> Replacement:
        for earlier in b.nodes[self._seen :]:
            self._producers.update((value.name, earlier) for value in earlier.outputs)
        self._seen = len(b.nodes)
        shape = _shape(node.output)
        if shape is None:
            return None
        found = {i: self._repeated(b, node.inputs[i], len(shape)) for i in _SHARED[node.op]}
        first = next((r for r in found.values() if r is not None), None)
        if first is None or not _splits(node, first):
            return None
        split = (first.axis - len(shape), first.groups, first.members)
        operands = []
        for i, value in enumerate(node.inputs):
            repeated = found.get(i)
            same = repeated is not None and (repeated.axis, repeated.groups, repeated.members) == (
                first.axis, first.groups, first.members)  # fmt: skip
            operands.append(repeated.source if same and repeated is not None else _split(b, value, *split))
        attrs = dict(node.attrs)
        if node.op == "attention":
            attrs["score"] = _one_axis_more(attrs["score"])
        results = b.emit_many(node.op, operands, attrs, [value.name for value in node.outputs])
        return [b.emit("reshape", x, b.sizes(_shape(old) or ())) for x, old in zip(results, node.outputs, strict=True)]

    def _producer(self, value: Value | None, op: str) -> Node | None:
        node = self._producers.get(value.name) if value is not None else None
        return node if node is not None and node.op == op else None

    def _repeated(self, b: Builder, value: Value | None, rank: int) -> _Repeated | None:
        """What `value` repeats along a batch axis, if that is how it is made."""
        if value is None or _shape(value) is None or len(_shape(value) or ()) != rank or rank < 3:
            return None
        turned = self._producer(value, "transpose")
        if turned is not None:
            if tuple(turned.attrs["perm"]) != (*range(rank - 2), rank - 1, rank - 2):
                return None
            inner = self._repeated(b, turned.inputs[0], rank)
            perm = (*range(rank - 1), rank, rank - 1)
            if inner is None:
                return None
            return _Repeated(b.emit("transpose", inner.source, perm=perm), inner.axis, inner.groups, inner.members)
        merged = self._producer(value, "reshape")
        spread = self._producer(merged.inputs[0], "expand") if merged is not None else None
        source = spread.inputs[0] if spread is not None else None
        if spread is None or source is None:
            return None
        return _relation(spread.output, _shape(source), _shape(value))


def _relation(source: Value, held: tuple | None, shape: tuple | None) -> _Repeated | None:
    """How `shape` merges an axis that `source` repeats and `held` has once with the axis before it."""
    wide = _shape(source)
    if held is None or wide is None or shape is None or not len(held) == len(wide) == len(shape) + 1:
        return None
    for axis in range(len(shape) - 2):
        merged = (*wide[:axis], wide[axis] * wide[axis + 1], *wide[axis + 2 :])
        once = (*wide[: axis + 1], 1, *wide[axis + 2 :])
        if merged == shape and held == once and wide[axis + 1] != 1:
            return _Repeated(source, axis, wide[axis], wide[axis + 1])
    return None


def _splits(node: Node, by: _Repeated) -> bool:
    """Whether the axis can be split in every operand: it is one, or as long as the repeated axis."""
    rank = len(_shape(node.output) or ())
    full = by.groups * by.members
    for value in node.inputs:
        if value is None:
            continue
        shape = _shape(value)
        if shape is None:
            return False
        at = by.axis - rank + len(shape)
        if at >= 0 and shape[at] not in (1, full):
            return False
    return all((_shape(value) or (None,) * rank)[by.axis] == full for value in node.outputs)


def _split(b: Builder, value: Value | None, axis: int, groups: Size, members: Size) -> Value | None:
    """`value` with `axis` (negative: operands may have fewer axes) as two."""
    shape = _shape(value)
    at = axis + len(shape or ())
    if value is None or shape is None or at < 0:
        return value
    parts = (1, 1) if shape[at] == 1 else (groups, members)
    return b.emit("reshape", value, b.sizes((*shape[:at], *parts, *shape[at + 1 :])))


def _one_axis_more(score: Expr) -> Expr:
    """A score over matrices that have one more batch axis in front."""
    return transform(score, lambda n: index(n.value + 1) if n.op == "index" else None)


def _shape(value: Value | None) -> tuple | None:
    """The shape of a tensor, None where its rank is not known."""
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None
