"""Which inputs of a model decide shapes by their contents."""

from __future__ import annotations

from typing import Any

from compiler.frontends.onnx_model import domain_name, read_model
from compiler.frontends.onnx_order import initializer_names, subgraphs
from compiler.op import ONNX_ROWS, Op, lookup


def deciding_inputs(model: Any) -> tuple[str, ...]:
    """Names of the main graph's inputs that reach, directly or through integer chains, an operand whose contents decide
    a shape or an axis (Reshape's shape, Slice's starts, ...). Raises ModelError as `onnx.load` does."""
    lookup("map")  # fills the registry
    graph = read_model(model).proto.graph
    producers = {name: node for node in graph.node for name in node.output if name}
    inputs = {value.name for value in graph.input} - set(initializer_names(graph))
    found: dict[str, None] = {}
    seen: set[str] = set()
    pending = [name for node in graph.node for name in _deciding_operands(node)]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in inputs:
            found[name] = None
        elif name in producers and _tracks(producers[name]):
            pending.extend(name for name in producers[name].input if name)
    return tuple(value.name for value in graph.input if value.name in found)


def _deciding_operands(node: Any) -> list[str]:
    op = _op(node)
    if op is None or subgraphs(node):
        return []
    return [node.input[i] for i in op.value_operands if i < len(node.input) and node.input[i]]


def _tracks(node: Any) -> bool:
    op = _op(node)
    return op is not None and op.tracks_values


def _op(node: Any) -> Op | None:
    entry = ONNX_ROWS.get((domain_name(node.domain), node.op_type))
    return entry[0] if entry else None
