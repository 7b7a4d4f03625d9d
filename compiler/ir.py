"""The graph IR: values in SSA form, nodes in topological order, and a stable text form that diffs well.

Everything is frozen; passes build new graphs (see builder.py). A node's `where` names the nodes of the imported
model it stands for: the first is quoted in errors, all of them share its ledger row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compiler.dims import Size
from compiler.policy import Policy
from compiler.types import ValueType


@dataclass(frozen=True)
class Value:
    """One SSA value: a name unique in its graph, and its type."""

    name: str
    type: ValueType

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. A missing optional input is None; an output nobody wants has the name ''. Attributes are
    Python scalars, strings, tuples, NumPy arrays, DTypes, Exprs or (for control flow) Graphs."""

    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[str, ...] = ()

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def place(self) -> str:
        """What errors call this node."""
        return self.where[0] if self.where else self.op


@dataclass(frozen=True)
class Guard:
    """An equality of sizes the graph was built on. A call that breaks it is compiled anew for its own sizes, unless the
    model itself asserts it."""

    left: Size
    right: Size
    place: str
    asserted: bool = False


@dataclass(frozen=True)
class ImportedNode:
    """A node of the model as the user wrote it: the row key of the ledger."""

    name: str
    op: str


@dataclass(frozen=True, eq=False)
class Graph:
    """A function from `inputs` to `outputs`.

    constants: arrays by value name (weights and folded results). `guards`: see Guard. `imported`: every node of
    the model as imported. `notes`: for imported nodes that need no kernel, why (folded, view, dead). `output_names`:
    what the user calls the outputs, () where their value names say it. `size_names`: the user's spelling of named
    sizes that are no identifiers. `policy`: in which precision its products are to run, None: as written. `remarks`:
    what the ledger says beside what ran an imported node.
    """

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    imported: tuple[ImportedNode, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()
    size_names: Mapping[str, str] = field(default_factory=dict)
    policy: Policy | None = None
    remarks: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> Iterator[Value]:
        """Every value in definition order: inputs, then node outputs (constants are not listed)."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs

    def bodies(self) -> Iterator[Graph]:
        """The graphs among its nodes' attributes (bodies of control flow), not those within them."""
        for node in self.nodes:
            yield from (item for item in node.attrs.values() if isinstance(item, Graph))

    def constant_names(self) -> set[str]:
        """The names of all constants, those of bodies included."""
        return set(self.constants).union(*(body.constant_names() for body in self.bodies()))

    def with_constants(self, arrays: Mapping[str, np.ndarray]) -> Graph:
        """This graph, its bodies too, with other contents for the constants of these names."""

        def renewed(node: Node) -> Node:
            if not any(isinstance(item, Graph) for item in node.attrs.values()):
                return node
            attrs = {k: v.with_constants(arrays) if isinstance(v, Graph) else v for k, v in node.attrs.items()}
            return replace(node, attrs=attrs)

        nodes = tuple(renewed(node) for node in self.nodes)
        constants = {name: arrays.get(name, array) for name, array in self.constants.items()}
        return replace(self, nodes=nodes, constants=constants)

    def with_policy(self, policy: Policy | None) -> Graph:
        """This graph, its bodies too, with its products in other precisions."""

        def renewed(item: Any) -> Any:
            return item.with_policy(policy) if isinstance(item, Graph) else item

        nodes = tuple(
            replace(node, attrs={key: renewed(item) for key, item in node.attrs.items()})
            if any(isinstance(item, Graph) for item in node.attrs.values())
            else node
            for node in self.nodes
        )
        return replace(self, nodes=nodes, policy=policy)

    def consumers(self) -> dict[str, list[Node]]:
        """For each value name, the nodes that read it, once per read. Graph outputs are not nodes."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    readers.setdefault(value.name, []).append(node)
        return readers

    def producers(self) -> dict[str, Node]:
        """For each value name, the node that defines it."""
        return {value.name: node for node in self.nodes for value in node.outputs if value.name}

    def __str__(self) -> str:
        from compiler.text import format_graph

        return format_graph(self)
