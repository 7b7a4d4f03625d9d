"""Verify: definitions before uses, unique names, and types that inference agrees with."""

from __future__ import annotations

from compiler.builder import Builder, infer
from compiler.dims import Dim
from compiler.errors import ModelError
from compiler.ir import Graph, Node, Value
from compiler.op import lookup
from compiler.types import TensorType, ValueType


def verify(graph: Graph) -> Graph:
    """`graph` itself. Raises ModelError naming the first node that is malformed or whose types do not follow."""
    builder = Builder(graph)
    builder.inputs = list(graph.inputs)
    defined = {value.name for value in graph.inputs} | set(graph.constants)
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and value.name not in defined:
                raise ModelError(f"{node.place}: {node.op} reads {value.name!r}, which nothing before it defines")
        with builder.at(*node.where):
            _check_types(builder, node)
        for value in node.outputs:
            if value.name and value.name in defined:
                raise ModelError(f"{node.place}: {node.op} defines {value.name!r} a second time")
            defined.add(value.name)
        builder.keep(node)
    for value in graph.outputs:
        if value.name not in defined:
            raise ModelError(f"output {value.name!r} is not defined by any node")
    return graph


def _check_types(builder: Builder, node: Node) -> None:
    inferred = infer(lookup(node.op), node.inputs, node.attrs, builder, len(node.outputs), [])
    for value, type in zip(node.outputs, inferred, strict=False):
        if value.name and not _agree(value, type):
            raise ModelError(f"{node.place}: {node.op} gives {type} for {value.name!r}, recorded as {value.type}")


def _agree(value: Value, type: ValueType) -> bool:
    """Equal element types and numeric extents; symbols may be spelled differently (fresh ones, guarded ones)."""
    recorded = value.type
    if not isinstance(recorded, TensorType) or not isinstance(type, TensorType):
        return isinstance(type, type_of(recorded))
    if recorded.dtype != type.dtype:
        return False
    if recorded.shape is None or type.shape is None:
        return True
    return len(recorded.shape) == len(type.shape) and all(
        a == b or isinstance(a, Dim) or isinstance(b, Dim) for a, b in zip(recorded.shape, type.shape, strict=True)
    )


def type_of(recorded: ValueType) -> type:
    """The container class of a value type."""
    return recorded.__class__
