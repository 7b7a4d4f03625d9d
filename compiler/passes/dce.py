"""Dead code elimination: nodes nobody reads go; so do outputs nobody reads.

A node whose result decides a named size is read by everything that mentions the size.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.dims import Dim, names_in
from compiler.ir import Graph, Node, Value
from compiler.types import TensorType

_UNUSED = ""
_RESULTS = {"map": ("outputs",), "reduce": ("elements", "rows")}  # attributes with an expression an output


def dce(graph: Graph) -> Graph:
    """`graph` without unread nodes; imported nodes that vanish are noted."""
    wanted = {value.name for value in graph.outputs}
    sizes = set().union(*(_sizes(value) for value in graph.outputs))
    decides = _deciders(graph)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        deciding = {value.name for value in node.outputs if decides.get(value.name, frozenset()) & sizes}
        wanted |= deciding
        if not any(value.name in wanted for value in node.outputs):
            continue
        wanted.update(value.name for value in node.inputs if value is not None)
        for value in (*node.inputs, *node.outputs):
            sizes |= _sizes(value) if value is not None else set()
        sizes |= names_in(node.attrs)
        outputs = tuple(v if v.name in wanted else Value(_UNUSED, v.type) for v in node.outputs)
        kept.append(_pruned(Node(node.op, node.inputs, outputs, node.attrs, node.where)))
    kept.reverse()
    alive = {name for node in kept for name in node.where}
    notes = dict(graph.notes)
    for node in graph.nodes:
        for name in node.where:
            if name not in alive:
                notes.setdefault(name, "dead: nothing reads its result")
    constants = {name: array for name, array in graph.constants.items() if name in wanted}
    return replace(graph, nodes=tuple(kept), constants=constants, notes=notes)


def _deciders(graph: Graph) -> dict[str, frozenset[str]]:
    """For each value that is the first to have some named sizes in its shape: their names."""
    known = set().union(*(_sizes(value) for value in graph.inputs))
    found: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        for value in node.outputs:
            fresh = _sizes(value) - known
            if fresh and value.name:
                found[value.name] = frozenset(fresh)
                known |= fresh
    return found


def _sizes(value: Value) -> set[str]:
    """The named sizes in a value's shape."""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return {name for size in shape or () if isinstance(size, Dim) for name in size.names}


def _pruned(node: Node) -> Node:
    """A map or reduction without the expressions of outputs nobody reads."""
    if node.op not in _RESULTS or all(value.name for value in node.outputs):
        return node
    wanted = iter([bool(value.name) for value in node.outputs])
    attrs = {key: tuple(e for e in node.attrs[key] if next(wanted, False)) for key in _RESULTS[node.op]}
    outputs = tuple(value for value in node.outputs if value.name)
    return Node(node.op, node.inputs, outputs, {**node.attrs, **attrs}, node.where)
