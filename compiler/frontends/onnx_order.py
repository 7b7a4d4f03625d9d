"""Order and names of a graph's nodes: free names, definition before use, no cycles, nothing defined twice."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from typing import Any

from compiler.errors import ModelError


def subgraphs(node: Any) -> list[Any]:
    """The GraphProtos among a node's attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def initializer_names(graph: Any) -> list[str]:
    """Names of a GraphProto's dense and sparse initializers."""
    return [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]


def reads(node: Any) -> list[str]:
    """Names a node needs: its inputs, and what its subgraphs read from around them. In order, without repeats."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        names.extend(free_names(graph))
    return list(dict.fromkeys(names))


def free_names(graph: Any) -> list[str]:
    """Names a GraphProto reads but does not define."""
    defined = {value.name for value in graph.input} | set(initializer_names(graph))
    defined |= {name for node in graph.node for name in node.output}
    wanted = [name for node in graph.node for name in reads(node)] + [value.name for value in graph.output]
    return list(dict.fromkeys(name for name in wanted if name not in defined))


def wanted_names(graphs_and_functions: Iterable[Any]) -> set[str]:
    """Every name some node reads or some (sub)graph gives out."""
    names: set[str] = set()
    for body in graphs_and_functions:
        for node in body.node:
            names.update(node.input)
            names |= wanted_names(subgraphs(node))
        names.update(getattr(value, "name", value) for value in body.output)
    return names


def node_label(node: Any, index: int) -> str:
    """What to call a node: its own name, else its operator, place in the file and first output."""
    return node.name or f"{node.op_type}_{index}({next(iter(node.output), '')})"


def sorted_nodes(
    nodes: Sequence[Any], known: Collection[str], outer: Container[str], place: str
) -> list[tuple[int, Any]]:
    """(index in the file, node) in an order where names are defined before use; the file's own order where it is one.
    `known`: names of the same graph defined before; `outer`: those of the graphs around it, which may be shadowed.
    Raises ModelError for a name defined twice, a name never defined, and a cycle."""
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and (name in producer or name in known):
                raise ModelError(
                    f"{place}{node_label(node, index)}: defines {name!r}, which is already defined; "
                    "expected every name once: export the model again"
                )
            producer[name] = index
    needs: list[set[int]] = []
    for index, node in enumerate(nodes):
        wanted = [name for name in reads(node) if name not in known]
        missing = [name for name in wanted if name not in producer and name not in outer]
        if missing:
            raise ModelError(
                f"{place}{node_label(node, index)}: reads {missing[0]!r}, which nothing defines; "
                "expected an input, an initializer or the output of a node"
            )
        needs.append({producer[name] for name in wanted if name in producer})
    return [(index, nodes[index]) for index in _topological(needs, nodes, place)]


def _topological(needs: list[set[int]], nodes: Sequence[Any], place: str) -> list[int]:
    """Depth-first without recursion, roots in file order."""
    order: list[int] = []
    state = [0] * len(needs)  # 0 new, 1 being visited, 2 done
    for root in range(len(needs)):
        stack = [root]
        while stack:
            index = stack[-1]
            if state[index] == 0:
                state[index] = 1
                pending = [i for i in sorted(needs[index], reverse=True) if state[i] != 2]
                cyclic = [i for i in pending if state[i] == 1]
                if cyclic:
                    raise ModelError(
                        f"{place}{node_label(nodes[index], index)}: the graph is cyclic, it needs the output of "
                        f"{node_label(nodes[cyclic[0]], cyclic[0])}, which needs its own; export the model again"
                    )
                stack.extend(pending)
                continue
            if state[index] == 1:
                state[index] = 2
                order.append(index)
            stack.pop()
    return order
