"""Operands of products under way to another type: who makes them, and conversions put where fusion can reach them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, arg, cast, transform
from compiler.ir import Node, Value
from compiler.op import lookup
from compiler.passes.fuse_products import leading

_MOVES = ("transpose", "reshape")


@dataclass
class Operands:
    """The values of a graph under construction. `made` remembers conversions, so that readers of one value share
    them."""

    builder: Builder
    made: dict[Any, Any] = field(default_factory=dict)
    _producers: dict[str, Node] = field(default_factory=dict)
    _seen: int = 0

    def producer(self, value: Value) -> Node | None:
        """The node that makes a value."""
        nodes = self.builder.nodes
        for node in nodes[self._seen :]:
            self._producers.update((output.name, node) for output in node.outputs if output.name)
        self._seen = len(nodes)
        return self._producers.get(value.name)

    def mover(self, value: Value) -> Node | None:
        """The transpose or reshape that makes a value."""
        node = self.producer(value)
        return node if node is not None and node.op in _MOVES else None

    def constant(self, value: Value | None) -> np.ndarray | None:
        """The contents of a constant, seen through moves; None for what is computed."""
        if value is None:
            return None
        if value.name in self.builder.constants:
            return self.builder.constants[value.name]
        node = self.mover(value)
        inner = self.constant(node.inputs[0]) if node is not None else None
        if node is None or inner is None:
            return None
        others = [self.constant(operand) for operand in node.inputs[1:]]
        if any(other is None for other in others):
            return None
        return lookup(node.op).reference(inner, *others, **node.attrs)

    def beneath_moves(self, value: Value, convert: Callable[[Value], Value], key: str) -> Value:
        """An elementwise conversion of a value, applied before its transposes and reshapes rather than after them: so
        it meets what computes the elements, and fuses with that."""
        found = self.made.get((key, value.name))
        if found is None:
            node = self.mover(value)
            if node is None:
                found = convert(value)
            else:
                inner = self.beneath_moves(node.inputs[0], convert, key)
                found = self.builder.emit(node.op, inner, *node.inputs[1:], **node.attrs)
            self.made[key, value.name] = found
        return found


def product_again(
    b: Builder,
    node: Node,
    operands: list[Value | None],
    extras: list[Value],
    total: Callable[[int], Expr],
    **attrs: Any,
) -> tuple[Value, ...]:
    """A product on other operands, with more epilogue operands behind its own. total(first): what the accumulator of
    before is now, as an expression of the accumulator and of `extras`, numbered from `first`."""
    lead = leading(node)
    own = list(node.inputs[lead:])
    expr = total(len(own) + 1)
    epilogue = tuple(
        transform(e, lambda n: expr if n.op == "arg" and n.value == 0 else None)
        for e in node.attrs["epilogue"] or (_plain(node, expr),)
    )
    names = [value.name for value in node.outputs]
    inputs = [*operands, *[None] * (lead - len(operands)), *own, *extras]
    return b.emit_many(node.op, inputs, {**node.attrs, "epilogue": epilogue, **attrs}, names)


def depth_of(node: Node) -> Size | None:
    """How many products an element of a product's result sums up; None where weights have no known shape."""
    shape = node.inputs[1].type.shape
    if node.op == "conv":
        return math.prod(shape[1:]) if dims.is_static(shape[1:]) else None
    return shape[-2]


def _plain(node: Node, total: Expr) -> Expr:
    """A product's result where it has no epilogue."""
    return cast(arg(0, total.dtype), node.output.type.dtype)
