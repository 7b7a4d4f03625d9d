"""Fold: nodes whose operands are constants become constants; known integer contents become `sizes`."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.ir import Graph, Node, Value
from compiler.op import Op, lookup
from compiler.passes.specialize import substitute_sizes
from compiler.reemit import reemit
from compiler.types import TensorType

_GROWTH_LIMIT = 1 << 16  # elements; a larger result than this must not be larger than what it is made of
_NEVER = frozenset({"sizes", "shape_of", "result_shape"})
_VIEWS = frozenset({"transpose", "reshape", "expand", "slice"})  # of a large constant: lowering reads it in place


def fold(graph: Graph, keep: AbstractSet[str] = frozenset()) -> Graph:
    """`graph` with constant subgraphs evaluated by the reference. The imported nodes they stood for are noted. Nodes
    of the ops `keep` stay, and what reads them.

    A constant may decide sizes that inference had to invent; then everything is inferred again with their numbers.
    """
    while True:
        graph, sizes = _fold_once(graph, keep)
        if not sizes:
            return graph
        decided = dict(sizes)
        graph = reemit(graph, attribute=lambda item, decided=decided: substitute_sizes(item, decided))  # type: ignore[misc]


def _fold_once(graph: Graph, keep: AbstractSet[str]) -> tuple[Graph, dict[str, int]]:
    """The graph with what is constant by now folded, and the sizes that became numbers by it."""
    builder = Builder(graph)
    renamed: dict[str, Value] = {}
    sizes: dict[str, int] = {}
    for node in graph.nodes:
        inputs = tuple(renamed.get(v.name, v) if v is not None else None for v in node.inputs)
        node = Node(node.op, inputs, node.outputs, node.attrs, node.where)
        results = None if node.op in keep else _constants(builder, node) or _known_sizes(builder, node)
        if results is None:
            builder.keep(node)
            continue
        for old, new in zip(node.outputs, results, strict=True):
            if old.name and new is not None:
                renamed[old.name] = new
                sizes.update(_decided(old, new))
        for name in node.where:
            builder.notes.setdefault(name, "folded: its operands are known while compiling")
    return builder.finish([renamed.get(v.name, v) for v in graph.outputs]), sizes


def _decided(old: Value, new: Value) -> dict[str, int]:
    """The named sizes of `old` that are numbers in `new`."""
    if not isinstance(old.type, TensorType) or not isinstance(new.type, TensorType) or old.type.shape is None:
        return {}
    pairs = zip(old.type.shape, new.type.shape or (), strict=False)
    return {str(a): b for a, b in pairs if isinstance(a, dims.Dim) and a.is_symbol and isinstance(b, int)}


def _constants(builder: Builder, node: Node) -> Sequence[Value | None] | None:
    entry = lookup(node.op)
    if entry.reference is None or node.op in _NEVER or not _pure(entry) or not _worth_folding(builder, node):
        return None
    arrays = [builder.constants[v.name] if v is not None else None for v in node.inputs]
    with np.errstate(all="ignore"):
        results = entry.reference(*arrays, **node.attrs)
    results = results if isinstance(results, tuple) else (results,)
    found: list[Value | None] = []
    for value, array in zip(node.outputs, results, strict=False):
        assert isinstance(value.type, TensorType)
        array = np.asarray(array, dtype=value.type.dtype.numpy)
        found.append(builder.constant(np.ascontiguousarray(array).reshape(array.shape), value.name or "folded"))
    return found


def _pure(entry: Op) -> bool:
    return not entry.host_reason or "random" not in entry.host_reason


def _worth_folding(builder: Builder, node: Node) -> bool:
    operands = [v for v in node.inputs if v is not None]
    if any(v.name not in builder.constants for v in operands):
        return False
    if any(isinstance(a, Graph) for a in node.attrs.values()):
        return False
    total = sum(builder.constants[v.name].size for v in operands)
    if node.op in _VIEWS and total > _GROWTH_LIMIT:
        return False
    for value in node.outputs:
        type = value.type
        if not isinstance(type, TensorType) or type.dtype == dtypes.string:
            return False
        if type.shape is None:
            return False
        if not dims.is_static(type.shape):
            if dims.names_in(node.attrs):
                return False  # sizes from outside; ones that inference had to invent are the constants' to decide
        elif type.elements > max(total, _GROWTH_LIMIT):
            return False
    return True


def _known_sizes(builder: Builder, node: Node) -> Sequence[Value | None] | None:
    """An int64 vector of known contents needs no chain of nodes."""
    if node.op == "sizes" or len(node.outputs) != 1:
        return None
    type, contents = node.output.type, builder.contents(_probe(builder, node))
    if contents is None or not isinstance(type, TensorType) or type.dtype != dtypes.int64 or contents.ndim != 1:
        return None
    sizes = [size if isinstance(size, dims.Dim) else int(size) for size in contents]
    with builder.at(*node.where):
        return (builder.sizes(sizes),)


def _probe(builder: Builder, node: Node) -> Value:
    """The node's output after tracking its contents, without adding the node."""
    builder.keep(node)
    builder.nodes.pop()
    return node.output
