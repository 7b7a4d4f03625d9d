"""A graph built anew node by node, with other input types, constants or attributes: inference runs again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.errors import ShapeError
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
    builder.policy, builder.remarks = graph.policy, dict(graph.remarks)
    values: dict[str, Value] = {}
    sizes: dict[str, Size] = {}  # what sizes that inference invented the first time are now

    def present(item: Any) -> Any:
        return _with_sizes(attribute(item), sizes)

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
            attrs: Mapping[str, Any] = {key: present(item) for key, item in node.attrs.items()}
            outputs = builder.emit_many(
                node.op,
                [values[v.name] if v is not None else None for v in node.inputs],
                attrs,
                [v.name for v in node.outputs],
            )
        for old, new in zip(node.outputs, outputs, strict=True):
            if old.name:
                values[old.name] = new
            _note_sizes(old.type, new.type, sizes)
    for guard in graph.guards:
        if guard.asserted:
            with builder.at(guard.place):
                _assert_equal(builder, present(guard.left), present(guard.right))
    return builder.finish([result(builder, values[v.name], v.type) for v in graph.outputs])


def _note_sizes(old: ValueType, new: ValueType, sizes: dict[str, Size]) -> None:
    """Note under which name, or as which number, each bare size of a type goes now."""
    if isinstance(old, TensorType) and isinstance(new, TensorType):
        for before, now in zip(old.shape or (), new.shape or (), strict=False):
            if isinstance(before, Dim) and before.is_symbol and before != now:
                sizes.setdefault(str(before), now)


def _with_sizes(item: Any, sizes: Mapping[str, Size]) -> Any:
    """An attribute with the sizes of these names replaced."""
    if not dims.names_in(item) & sizes.keys():
        return item
    if isinstance(item, Dim):
        return dims.substitute(item, sizes)
    if isinstance(item, tuple):
        return tuple(_with_sizes(part, sizes) for part in item)
    if isinstance(item, Mapping):
        return {key: _with_sizes(part, sizes) for key, part in item.items()}
    flat = [_with_sizes(part, sizes) for part in item.flat]
    return np.array([*flat, None], object)[:-1].reshape(item.shape)


def _assert_equal(builder: Builder, left: Size, right: Size) -> None:
    if isinstance(left, int) and isinstance(right, int) and left != right:
        raise ShapeError(f"{builder.place}: the model asserts that {left} equals {right}")
    if left != right:
        builder.add_guard(left, right, asserted=True)


def _claim_symbols(builder: Builder, type: ValueType) -> None:
    if isinstance(type, TensorType):
        for size in type.shape or ():
            for name in getattr(size, "names", ()):
                builder.claim_symbol(name)
