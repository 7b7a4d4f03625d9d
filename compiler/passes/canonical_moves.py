"""Canonical forms of moves: chains of transposes, reshapes and slices become the fewest that say the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from compiler import dims
from compiler.builder import Builder
from compiler.ir import Node, Value
from compiler.rewrite import Replacement
from compiler.types import TensorType


class MoveRules:
    """Rules that look at producers: kept as the rewrite goes along."""

    def __init__(self) -> None:
        self.producers: dict[str, Node] = {}

    def table(self) -> dict[str, Any]:
        """The rule for each op."""
        rules = {
            "transpose": self.transpose,
            "reshape": self.reshape,
            "expand": self.expand,
            "slice": self.slice,
            "concat": self.concat,
            "pad": self.pad,
            "take": self.take,
        }
        return {name: self._remember(rule) for name, rule in rules.items()}

    def _remember(self, rule: Any) -> Any:
        def wrapped(b: Builder, node: Node) -> Replacement:
            result = rule(b, node)
            if result is None:
                for value in node.outputs:
                    self.producers[value.name] = node
            else:
                for fresh in b.nodes[-2:]:
                    for value in fresh.outputs:
                        self.producers[value.name] = fresh
            return result

        return wrapped

    def _producer(self, value: Value | None, op: str) -> Node | None:
        node = self.producers.get(value.name) if value is not None else None
        return node if node is not None and node.op == op else None

    def transpose(self, b: Builder, node: Node) -> Replacement:
        """Two in a row are one; the identity is nothing."""
        x, perm = node.inputs[0], tuple(node.attrs["perm"])
        inner = self._producer(x, "transpose")
        if inner is not None:
            x, perm = inner.inputs[0], tuple(inner.attrs["perm"][p] for p in perm)
        if perm == tuple(range(len(perm))):
            return as_view(b, node, x)
        return b.emit("transpose", x, perm=perm, hint=node.output.name) if inner is not None else None

    def reshape(self, b: Builder, node: Node) -> Replacement:
        """Only the last of a row of reshapes counts; one to the same shape is nothing."""
        x, shape = node.inputs[0], shape_of(node.output)
        inner = self._producer(x, "reshape")
        if inner is not None and shape is not None:
            x = inner.inputs[0]
        if shape is not None and shape_of(x) == shape:
            return as_view(b, node, x)
        if inner is not None and shape is not None and plain(shape):
            return b.emit("reshape", x, b.sizes(shape), hint=node.output.name)
        return self._transpose_of_groups(b, node, shape)

    def _transpose_of_groups(self, b: Builder, node: Node, shape: Any) -> Replacement:
        """Axes merged, transposed and split again (batch and heads, say) are one transpose of the original."""
        middle = self._producer(node.inputs[0], "transpose")
        merged = self._producer(middle.inputs[0], "reshape") if middle is not None else None
        if middle is None or merged is None or shape is None:
            return None
        source = merged.inputs[0]
        groups = merged_groups(shape_of(source), shape_of(merged.output))
        if groups is None:
            return None
        perm = tuple(axis for p in middle.attrs["perm"] for axis in groups[p])
        if tuple(shape_of(source)[axis] for axis in perm) != shape:  # type: ignore[index]
            return None
        return b.emit("transpose", source, perm=perm, hint=node.output.name)

    def take(self, b: Builder, node: Node) -> Replacement:
        """Of evenly spaced constant positions: a slice."""
        data, index = node.inputs
        positions = b.constants.get(index.name) if index is not None else None
        shape = shape_of(data)
        if positions is None or shape is None or positions.ndim > 1 or positions.size == 0:
            return None
        axis = node.attrs["axis"] % len(shape)
        flat = [int(p) for p in positions.reshape(-1)]
        if min(flat) < 0:
            if not isinstance(shape[axis], int) and len(flat) > 1:
                return None
            flat = [p + shape[axis] if p < 0 else p for p in flat]  # type: ignore[misc]
        step = flat[1] - flat[0] if len(flat) > 1 else 1
        if step == 0 or any(y - x != step for x, y in pairwise(flat)):
            return None
        if isinstance(shape[axis], int):
            if not all(0 <= p < shape[axis] for p in (flat[0], flat[-1])):
                return None
        else:  # a size these positions lie outside of is for the gather to refuse
            for room in (x for end in (flat[0], flat[-1]) for x in (end, shape[axis] - 1 - end)):
                if (shortage := dims.minimum(room, 0)) != 0:
                    b.add_guard(shortage, 0)
        rank = len(shape)
        starts, sizes, steps = [0] * rank, list(shape), [1] * rank
        starts[axis], sizes[axis], steps[axis] = flat[0], len(flat), step
        part = b.emit("slice", data, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
        if positions.ndim == 1:
            return part
        return b.emit("reshape", part, b.sizes((*shape[:axis], *shape[axis + 1 :])))

    def expand(self, b: Builder, node: Node) -> Replacement:
        """To the same shape: nothing."""
        return as_view(b, node, node.inputs[0]) if shape_of(node.output) == shape_of(node.inputs[0]) else None

    def slice(self, b: Builder, node: Node) -> Replacement:
        """Everything in order: nothing."""
        attrs, shape = node.attrs, shape_of(node.inputs[0])
        whole = tuple(attrs["sizes"]) == shape and all(s == 1 for s in attrs["steps"])
        return as_view(b, node, node.inputs[0]) if whole else None

    def concat(self, b: Builder, node: Node) -> Replacement:
        """Empty parts go; one part is nothing."""
        axis = node.attrs["axis"]
        parts = [v for v in node.inputs if shape_of(v) is None or shape_of(v)[axis] != 0]
        if len(parts) == 1 and shape_of(parts[0]) == shape_of(node.output):
            return as_view(b, node, parts[0])
        return b.emit("concat", *parts, axis=axis) if parts and len(parts) < len(node.inputs) else None

    def pad(self, b: Builder, node: Node) -> Replacement:
        """By nothing: nothing."""
        flat = (*node.attrs["before"], *node.attrs["after"])
        return as_view(b, node, node.inputs[0]) if all(n == 0 for n in flat) else None


def as_view(b: Builder, node: Node, value: Value | None) -> Value | None:
    """`value` as the replacement of a node that moves no data, noted for the ledger."""
    for name in node.where:
        b.notes.setdefault(name, "view: it moves no data")
    return value


def shape_of(value: Value | None) -> tuple[dims.Size, ...] | None:
    """The shape of a tensor value if its rank is known."""
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


def plain(shape: tuple[dims.Size, ...]) -> bool:
    """Whether a shape has only numbers and sizes in it."""
    return all(isinstance(size, (int, dims.Dim)) for size in shape)


def merged_groups(old: Any, new: Any) -> list[list[int]] | None:
    """For each axis of `new`, the consecutive axes of `old` it merges; None where that is not how they relate."""
    if old is None or new is None:
        return None
    groups: list[list[int]] = []
    axis = 0
    for size in new:
        group: list[int] = []
        total: dims.Size = 1
        while axis < len(old) and (not group or total != size):
            total = total * old[axis]
            group.append(axis)
            axis += 1
        if total != size:
            return None
        groups.append(group)
    return groups if axis == len(old) else None
