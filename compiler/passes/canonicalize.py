"""Canonicalize: one form for what can be written several ways, so that later passes need not know them all."""

from __future__ import annotations

from typing import Any

from compiler.builder import Builder
from compiler.expr import Expr, arg, const, renumber, substitute
from compiler.ir import Graph, Node, Value
from compiler.passes.canonical_moves import MoveRules, as_view, plain, shape_of
from compiler.rewrite import Replacement, rewrite
from compiler.types import TensorType

_ROUNDS = 4  # each round uncovers fewer matches; what is left after these is harmless


def canonicalize(graph: Graph) -> Graph:
    """`graph` with equal nodes shared and the rules of this file applied."""
    for _ in range(_ROUNDS):
        before = [node.op for node in graph.nodes]
        graph = rewrite(share(graph), {**MoveRules().table(), "map": simplify_map})
        if [node.op for node in graph.nodes] == before:
            break
    return graph


def share(graph: Graph) -> Graph:
    """Common subexpressions computed once; the surviving node carries the places of all."""
    builder = Builder(graph)
    renamed: dict[str, Value] = {}
    seen: dict[Any, int] = {}
    for node in graph.nodes:
        inputs = tuple(renamed.get(v.name, v) if v is not None else None for v in node.inputs)
        key = _key(node, inputs)
        if key is not None and key in seen:
            first = builder.nodes[seen[key]]
            places = tuple(dict.fromkeys((*first.where, *node.where)))
            builder.nodes[seen[key]] = Node(first.op, first.inputs, first.outputs, first.attrs, places)
            for old, new in zip(node.outputs, first.outputs, strict=True):
                renamed[old.name] = new
            continue
        if key is not None:
            seen[key] = len(builder.nodes)
        builder.keep(node, inputs)
    return builder.finish([renamed.get(v.name, v) for v in graph.outputs])


def _key(node: Node, inputs: tuple[Value | None, ...]) -> Any:
    """What equal nodes have in common. Types belong to it: the sizes a node invented are bound by that node alone."""
    key = (
        node.op,
        tuple(v.name if v is not None else None for v in inputs),
        tuple(sorted(node.attrs.items(), key=lambda item: item[0])),
        tuple((bool(v.name), v.type) for v in node.outputs),
    )
    try:
        hash(key)
    except TypeError:
        return None  # attributes with arrays or graphs are not compared
    return key if node.op in _SHARED else None


_SHARED = frozenset(
    {"map", "reduce", "matmul", "conv", "pool", "attention", "transpose", "reshape", "expand", "slice", "concat", "pad"}
    | {"take", "sizes", "shape_of", "cast", "grouped_matmul"}
)


def simplify_map(b: Builder, node: Node) -> Replacement:
    """Scalar constants move into the expressions; a map that computes nothing is its operand."""
    outputs: tuple[Expr, ...] = tuple(node.attrs["outputs"])
    shape = node.attrs["shape"]
    if (
        len(outputs) == 1
        and outputs[0].op == "arg"
        and shape_of(node.output) == shape_of(node.inputs[outputs[0].value])
    ):
        return as_view(b, node, node.inputs[outputs[0].value])
    full = shape_of(node.output)
    constants = {i: _scalar(b, v) for i, v in enumerate(node.inputs)}
    constants = {i: c for i, c in constants.items() if c is not None}
    if not constants or full is None:
        return None
    left = [i for i in range(len(node.inputs)) if i not in constants]
    if not left and (shape is None or not plain(full)):
        shape = full
    ranks = [len(shape_of(node.inputs[i]) or ()) for i in left]
    if shape is None and max(ranks, default=0) < len(full):
        shape = full  # a [1, 1] constant had raised the rank
    numbers = {old: new for new, old in enumerate(left)}
    fresh = []
    for root in outputs:
        root = substitute(root, {arg(i, c.dtype): c for i, c in constants.items()})
        fresh.append(renumber(root, numbers))
    return b.emit_many(
        "map",
        [node.inputs[i] for i in left],
        {"outputs": tuple(fresh), "shape": shape},
        [v.name for v in node.outputs],
    )


def _scalar(b: Builder, value: Value | None) -> Expr | None:
    """The constant expression of a one-element constant, if its type has one."""
    array = b.constants.get(value.name) if value is not None else None
    if array is None or array.size != 1 or not isinstance(value.type, TensorType):
        return None
    dtype = value.type.dtype
    if dtype.kind not in ("float", "int", "uint", "bool"):
        return None
    return const(array.reshape(()).item() if dtype.bits > 16 or not dtype.is_float else float(array.reshape(())), dtype)
