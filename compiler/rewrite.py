"""Rewriting by tables: a rule is a function for one op name; a pass is a table of rules walked in node order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.ir import Graph, Guard, Node, Value
from compiler.types import TensorType

# rule(builder, node) -> the values that replace node's outputs (None for an output nobody reads), or None to keep
# the node. The node it sees already reads the new graph's values.
Replacement = Value | Sequence[Value | None] | None
Rule = Callable[[Builder, Node], Replacement]


def rewrite(graph: Graph, rules: Mapping[str, Rule]) -> Graph:
    """`graph` with each rule applied where its op occurs, once, in topological order."""
    builder = Builder(graph)
    renamed: dict[str, Value] = {}

    def current(value: Value | None) -> Value | None:
        return renamed.get(value.name, value) if value is not None else None

    for node in graph.nodes:
        node = Node(node.op, tuple(current(v) for v in node.inputs), node.outputs, node.attrs, node.where)
        rule = rules.get(node.op)
        replacement: Replacement = None
        nodes, sizes = len(builder.nodes), len(builder.invented)
        if rule is not None:
            with builder.at(*node.where):
                replacement = rule(builder, node)
        if replacement is None:
            builder.keep(node)
            continue
        values = (replacement,) if isinstance(replacement, Value) else tuple(replacement)
        invented = builder.invented[sizes:]
        if invented:
            values = _keep_size_names(builder, nodes, set(invented), node.outputs, values)
        for old, new in zip(node.outputs, values, strict=False):
            if old.name and new is not None:
                renamed[old.name] = new
    return builder.finish([current(v) for v in graph.outputs])  # type: ignore[misc]


def _keep_size_names(
    builder: Builder, first: int, invented: set[str], outputs: Sequence[Value], values: Sequence[Value | None]
) -> tuple[Value | None, ...]:
    """`values` in the sizes of the `outputs` they replace. Inferring types again invents sizes again, but who reads the
    result knows it by the old names, which nothing would bind. Nodes from `first` on are those of the replacement."""
    names: dict[str, Size] = {}
    for old, new in zip(outputs, values, strict=False):
        if new is not None and isinstance(old.type, TensorType) and isinstance(new.type, TensorType):
            for ours, theirs in zip(old.type.shape or (), new.type.shape or (), strict=False):
                if isinstance(theirs, Dim) and theirs.is_symbol and str(theirs) in invented:
                    names.setdefault(str(theirs), ours)
    if not names:
        return tuple(values)
    for number in range(first, len(builder.nodes)):
        node = builder.nodes[number]
        inputs, results = (tuple(_renamed(v, names) for v in group) for group in (node.inputs, node.outputs))
        attrs = {key: _renamed(item, names) for key, item in node.attrs.items()}
        builder.nodes[number] = Node(node.op, inputs, results, attrs, node.where)
        for value in node.outputs:
            if value.name in builder.known:
                builder.known[value.name] = _renamed(builder.known[value.name], names)
    guards = [Guard(_renamed(g.left, names), _renamed(g.right, names), g.place) for g in builder.guards.values()]
    builder.guards = {(guard.left, guard.right): guard for guard in guards if guard.left != guard.right}
    return tuple(_renamed(value, names) for value in values)


def _renamed(item: Any, names: Mapping[str, Size]) -> Any:
    """A value, an attribute or contents with sizes replaced."""
    if isinstance(item, Dim):
        return dims.substitute(item, names)
    if isinstance(item, Value):
        return Value(item.name, _renamed(item.type, names))
    if isinstance(item, TensorType):
        return item if item.shape is None else replace(item, shape=_renamed(item.shape, names))
    if isinstance(item, tuple):
        return tuple(_renamed(part, names) for part in item)
    if isinstance(item, np.ndarray) and item.dtype == object:
        flat = np.empty(item.size, object)
        flat[:] = [_renamed(part, names) for part in item.flat]
        return flat.reshape(item.shape)
    return item
