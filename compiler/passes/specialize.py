"""Specialize: a symbolic graph rebuilt for input shapes that are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.dims import Dim
from compiler.ir import Graph
from compiler.reemit import reemit
from compiler.solve import solve
from compiler.types import TensorType, ValueType


def specialize(graph: Graph, shapes: Sequence[tuple[int, ...]]) -> Graph:
    """`graph` for inputs of exactly these shapes: what guards forbid or an unknown rank hides is decided again."""
    tensors = [(v.type.shape, shape) for v, shape in zip(graph.inputs, shapes, strict=True) if _has_rank(v.type)]
    sizes = solve(pair for sizes, numbers in tensors for pair in zip(sizes, numbers, strict=True))
    exact = {value.name: shape for value, shape in zip(graph.inputs, shapes, strict=True)}
    return reemit(
        graph,
        input_type=lambda value: _concrete_type(value.type, exact[value.name]),
        attribute=lambda item: substitute_sizes(item, sizes),
    )


def _has_rank(type: ValueType) -> bool:
    return isinstance(type, TensorType) and type.shape is not None


def _concrete_type(type: ValueType, shape: tuple[int, ...]) -> ValueType:
    return TensorType(type.dtype, shape) if isinstance(type, TensorType) else type


def substitute_sizes(item: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with every size whose names are all known turned into its number."""
    if isinstance(item, Dim):
        return item.evaluate(sizes) if item.names <= sizes.keys() else item
    if isinstance(item, tuple):
        return tuple(substitute_sizes(x, sizes) for x in item)
    if isinstance(item, np.ndarray) and item.dtype == object:
        flat = [substitute_sizes(x, sizes) for x in item.flat]
        return np.array(flat, object).reshape(item.shape)
    return item
