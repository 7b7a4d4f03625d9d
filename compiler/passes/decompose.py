"""Decompose: ops with a `decompose` become simpler ones, until only core and Host ops are left."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.op import REGISTRY
from compiler.rewrite import rewrite

_ROUNDS = 16  # deeper nesting than this is a cycle between decompositions


def decompose(graph: Graph) -> Graph:
    """`graph` in core ops. A decomposition may decline (return None): then the node stays as it is."""
    rules = {name: entry.decompose for name, entry in REGISTRY.items() if entry.decompose is not None}
    for _ in range(_ROUNDS):
        before = [node.op for node in graph.nodes]
        graph = rewrite(graph, rules)
        after = [node.op for node in graph.nodes]
        if before == after:
            return graph
    left = sorted(set(after) & set(rules))
    raise AssertionError(f"decompositions of {left} do not come to an end")
