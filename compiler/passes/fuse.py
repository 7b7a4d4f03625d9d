"""Fuse: elementwise work moves into the kernel that produces or reduces its operand. Fusion is substitution.

Nodes are visited in order; each absorbs producers while it can, so chains collapse:
- a map into a map, or into the stages of a reduce;
- a reduce into the map or the reduce (over the same axes) that reads its results: decomposed norms and softmaxes
  become one row program by these two rules alone;
- a matmul or conv into the map that reads it: the map becomes its epilogue, beside outputs that others read where it
  only narrows them;
- matmul, softmax, matmul into attention.
A node absorbed takes its consumer's place in the order, which every other reader of its outputs must come after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from compiler.ir import Graph, Node, Value
from compiler.op import lookup
from compiler.passes import fuse_attention, fuse_products, fuse_rules
from compiler.types import TensorType

Rule = Callable[["Fusion", int, Node, Node], Node | None]


def fuse(graph: Graph) -> Graph:
    """`graph` with maps, reductions, epilogues and attention fused."""
    fusion = Fusion(graph)
    fusion.run()
    return fusion.finish()


class Fusion:
    """The nodes of a graph by position, with who produces and who reads each value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node | None] = list(graph.nodes)
        self.position: dict[str, int] = {}
        self.readers: dict[str, set[int]] = {}
        self.results = {value.name for value in graph.outputs}
        for i, node in enumerate(graph.nodes):
            self._enter(i, node)

    def run(self) -> None:
        """Visit every node once, in order, absorbing as long as some rule applies."""
        for i in range(len(self.nodes)):
            while self._absorb_one(i):
                pass

    def finish(self) -> Graph:
        """The fused graph."""
        return replace(self.graph, nodes=tuple(node for node in self.nodes if node is not None))

    def producer(self, value: Value | None) -> tuple[int, Node] | None:
        """Where a value is produced, if by a node."""
        at = self.position.get(value.name) if value is not None else None
        node = self.nodes[at] if at is not None else None
        return (at, node) if at is not None and node is not None else None

    def only_read_by(self, value: Value, i: int) -> bool:
        """Whether node `i` is all that needs `value`."""
        return not value.name or (self.readers.get(value.name, set()) <= {i} and value.name not in self.results)

    def can_move(self, node: Node, i: int) -> bool:
        """Whether `node` may take position `i`: all other readers of its outputs come later."""
        return all(reader >= i for value in node.outputs for reader in self.readers.get(value.name, ()))

    def still_wanted(self, node: Node, i: int) -> list[Value]:
        """Outputs of `node` that somebody besides node `i` needs."""
        return [value for value in node.outputs if value.name and not self.only_read_by(value, i)]

    def replace(self, i: int, node: Node | None) -> None:
        """Put another node (or nothing) at a position."""
        old = self.nodes[i]
        if old is not None:
            for value in old.inputs:
                if value is not None:
                    self.readers[value.name].discard(i)
            for value in old.outputs:
                self.position.pop(value.name, None)
        self.nodes[i] = node
        if node is not None:
            self._enter(i, node)

    def _enter(self, i: int, node: Node) -> None:
        for value in node.inputs:
            if value is not None:
                self.readers.setdefault(value.name, set()).add(i)
        for value in node.outputs:
            if value.name:
                self.position[value.name] = i

    def _absorb_one(self, i: int) -> bool:
        node = self.nodes[i]
        if node is None or not _known(node):
            return False
        if node.op == "matmul" and fuse_attention.absorb(self, i, node):
            return True
        producers = [found for found in map(self.producer, node.inputs) if found is not None and _known(found[1])]
        # A product last: as its epilogue, a node takes in no more producers.
        for found in sorted(producers, key=lambda found: found[1].op != "map"):
            rule = RULES.get((node.op, found[1].op))
            fused = rule(self, i, node, found[1]) if rule else None
            if fused is not None:
                self.replace(found[0], None)
                self.replace(i, fused)
                return True
        return False


RULES: dict[tuple[str, str], Rule] = {
    ("map", "map"): fuse_rules.map_into_map,
    ("reduce", "map"): fuse_rules.map_into_reduce,
    ("map", "reduce"): fuse_rules.reduce_into_map,
    ("reduce", "reduce"): fuse_rules.reduce_into_reduce,
    ("map", "matmul"): fuse_products.product_into_map,
    ("map", "grouped_matmul"): fuse_products.product_into_map,
    ("map", "block_matmul"): fuse_products.product_into_map,
    ("map", "conv"): fuse_products.product_into_map,
}


def _known(node: Node) -> bool:
    values: Sequence[Value | None] = (*node.inputs, *node.outputs)
    core = lookup(node.op).lower is not None
    return core and all(v is None or (isinstance(v.type, TensorType) and v.type.shape is not None) for v in values)
