"""A graph built anew node by node, with other input types, constants or attributes: inference runs again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.ir import Graph, Value
from compiler.types import TensorType, ValueType


def reemit(
    graph: Graph,
    *,
    input_type: Callable[[Value], ValueType] = lambda value: value.type,
    entered: Callable[[Builder, Value], Value] = lambda builder, value: value,
    constant: Callable[[np.ndarray], np.ndarray] = lambda array: array,
    attribute: Callable[[Any], Any] = lambda item: item,
    result: Callable[[Builder, Value, ValueType], Value] = lambda builder, value, type: value,
) -> Graph:
    """`graph` under new types. `entered` may convert an input on entry, `result` an output (given its old type)."""
    builder = Builder()
    builder.imported, builder.notes = list(graph.imported), dict(graph.notes)
    builder.output_names, builder.size_names = graph.output_names, dict(graph.size_names)
    values: dict[str, Value] = {}
    for name, array in graph.constants.items():
        values[name] = builder.constant(constant(array), name)
    for value in graph.inputs:
        type = input_type(value)
        _claim_symbols(builder, type)
        values[value.name] = builder.input(value.name, type)
    for value in graph.inputs:
        values[value.name] = entered(builder, values[value.name])
    for node in graph.nodes:
        with builder.at(*node.where):
            attrs: Mapping[str, Any] = {key: attribute(item) for key, item in node.attrs.items()}
            outputs = builder.emit_many(
                node.op,
                [values[v.name] if v is not None else None for v in node.inputs],
                attrs,
                [v.name for v in node.outputs],
            )
        values.update({old.name: new for old, new in zip(node.outputs, outputs, strict=True) if old.name})
    return builder.finish([result(builder, values[v.name], v.type) for v in graph.outputs])


def _claim_symbols(builder: Builder, type: ValueType) -> None:
    if isinstance(type, TensorType):
        for size in type.shape or ():
            for name in getattr(size, "names", ()):
                builder.claim_symbol(name)
