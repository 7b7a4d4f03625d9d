"""Canonicalize: one form for what can be written several ways, so that later passes need not know them all."""

from __future__ import annotations

from typing import Any

from compiler import dims
from compiler.builder import Builder
from compiler.expr import Expr, arg, const, renumber, substitute
from compiler.ir import Graph, Node, Value
from compiler.rewrite import Replacement, rewrite
from compiler.types import TensorType


def canonicalize(graph: Graph) -> Graph:
    """`graph` with equal nodes shared and the rules of this file applied."""
    return rewrite(share(graph), _Rules(graph).table())


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
    key = (
        node.op,
        tuple(v.name if v is not None else None for v in inputs),
        tuple(sorted(node.attrs.items(), key=lambda item: item[0])),
        tuple(bool(v.name) for v in node.outputs),
    )
    try:
        hash(key)
    except TypeError:
        return None  # attributes with arrays or graphs are not compared
    return key if node.op in _SHARED else None


_SHARED = frozenset(
    {"map", "reduce", "matmul", "transpose", "reshape", "expand", "slice", "concat", "take", "sizes", "shape_of", "cast"}
)


class _Rules:
    """Rules that look at producers: kept as the rewrite goes along."""

    def __init__(self, graph: Graph) -> None:
        self.producers: dict[str, Node] = {}

    def table(self) -> dict[str, Any]:
        """The rule for each op."""
        rules = {
            "transpose": self.transpose,
            "reshape": self.reshape,
            "expand": self.expand,
            "slice": self.slice,
            "concat": self.concat,
            "pad": self.pad,
            "map": self.map,
        }
        return {name: self._remember(rule) for name, rule in rules.items()}

    def _remember(self, rule: Any) -> Any:
        def wrapped(b: Builder, node: Node) -> Replacement:
            result = rule(b, node)
            if result is None:
                for value in node.outputs:
                    self.producers[value.name] = node
            else:
                for fresh in b.nodes[-2:]:
                    for value in fresh.outputs:
                        self.producers[value.name] = fresh
            return result

        return wrapped

    def _producer(self, value: Value | None, op: str) -> Node | None:
        node = self.producers.get(value.name) if value is not None else None
        return node if node is not None and node.op == op else None

    def transpose(self, b: Builder, node: Node) -> Replacement:
        """Two in a row are one; the identity is nothing."""
        x, perm = node.inputs[0], tuple(node.attrs["perm"])
        inner = self._producer(x, "transpose")
        if inner is not None:
            x, perm = inner.inputs[0], tuple(inner.attrs["perm"][p] for p in perm)
        if perm == tuple(range(len(perm))):
            return _view(b, node, x)
        return b.emit("transpose", x, perm=perm, hint=node.output.name) if inner is not None else None

    def reshape(self, b: Builder, node: Node) -> Replacement:
        """Only the last of a row of reshapes counts; one to the same shape is nothing."""
        x, shape = node.inputs[0], _shape(node.output)
        inner = self._producer(x, "reshape")
        if inner is not None and shape is not None:
            x = inner.inputs[0]
        if shape is not None and _shape(x) == shape:
            return _view(b, node, x)
        if inner is not None and shape is not None and _plain(shape):
            return b.emit("reshape", x, b.sizes(shape), hint=node.output.name)
        return None

    def expand(self, b: Builder, node: Node) -> Replacement:
        """To the same shape: nothing."""
        return _view(b, node, node.inputs[0]) if _shape(node.output) == _shape(node.inputs[0]) else None

    def slice(self, b: Builder, node: Node) -> Replacement:
        """Everything in order: nothing."""
        attrs, shape = node.attrs, _shape(node.inputs[0])
        whole = tuple(attrs["sizes"]) == shape and all(s == 1 for s in attrs["steps"])
        return _view(b, node, node.inputs[0]) if whole else None

    def concat(self, b: Builder, node: Node) -> Replacement:
        """Empty parts go; one part is nothing."""
        axis = node.attrs["axis"]
        parts = [v for v in node.inputs if _shape(v) is None or _shape(v)[axis] != 0]
        if len(parts) == 1 and _shape(parts[0]) == _shape(node.output):
            return _view(b, node, parts[0])
        return b.emit("concat", *parts, axis=axis) if parts and len(parts) < len(node.inputs) else None

    def pad(self, b: Builder, node: Node) -> Replacement:
        """By nothing: nothing."""
        flat = (*node.attrs["before"], *node.attrs["after"])
        return _view(b, node, node.inputs[0]) if all(n == 0 for n in flat) else None

    def map(self, b: Builder, node: Node) -> Replacement:
        """Scalar constants move into the expressions; a map that computes nothing is its operand."""
        outputs: tuple[Expr, ...] = tuple(node.attrs["outputs"])
        shape = node.attrs["shape"]
        if len(outputs) == 1 and outputs[0].op == "arg" and _shape(node.output) == _shape(node.inputs[outputs[0].value]):
            return _view(b, node, node.inputs[outputs[0].value])
        full = _shape(node.output)
        constants = {i: _scalar(b, v) for i, v in enumerate(node.inputs)}
        constants = {i: c for i, c in constants.items() if c is not None}
        if not constants or full is None:
            return None
        left = [i for i in range(len(node.inputs)) if i not in constants]
        if not left and (shape is None or not _plain(full)):
            shape = full
        ranks = [len(_shape(node.inputs[i]) or ()) for i in left]
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


def _view(b: Builder, node: Node, value: Value | None) -> Value | None:
    for name in node.where:
        b.notes.setdefault(name, "view: it moves no data")
    return value


def _shape(value: Value | None) -> tuple[dims.Size, ...] | None:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


def _plain(shape: tuple[dims.Size, ...]) -> bool:
    return all(isinstance(size, (int, dims.Dim)) for size in shape)
