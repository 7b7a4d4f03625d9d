"""Rewriting by tables: a rule is a function for one op name; a pass is a table of rules walked in node order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compiler.builder import Builder
from compiler.ir import Graph, Node, Value

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
        if rule is not None:
            with builder.at(*node.where):
                replacement = rule(builder, node)
        if replacement is None:
            builder.keep(node)
            continue
        values = (replacement,) if isinstance(replacement, Value) else replacement
        for old, new in zip(node.outputs, values, strict=False):
            if old.name and new is not None:
                renamed[old.name] = new
    return builder.finish([current(v) for v in graph.outputs])  # type: ignore[misc]
