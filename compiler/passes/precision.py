"""Precision: the graph retyped so that all float arithmetic happens in one asked-for type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import Expr, walk
from compiler.ir import Graph, Value
from compiler.kernels import Stage
from compiler.types import TensorType

_RETYPED = frozenset({dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16})
NAMES = {"fp64": dtypes.float64, "fp32": dtypes.float32}


def set_precision(graph: Graph, precision: str) -> Graph:
    """`graph` computing in `precision` ("fp64" or "fp32"). Inputs keep their types and are converted on entry; outputs
    are converted back to the model's types, except in fp64, where they stay float64."""
    target = NAMES[precision]
    builder = Builder()
    builder.imported, builder.notes = list(graph.imported), dict(graph.notes)
    builder.output_names, builder.size_names = graph.output_names, dict(graph.size_names)
    values: dict[str, Value] = {}
    for name, array in graph.constants.items():
        values[name] = builder.constant(_array(array, target), name)
    for value in graph.inputs:
        if isinstance(value.type, TensorType):
            for size in value.type.shape or ():
                for symbol in getattr(size, "names", ()):
                    builder.claim_symbol(symbol)
        entered = builder.input(value.name, value.type)
        values[value.name] = _converted(builder, entered, target)
    for node in graph.nodes:
        with builder.at(*node.where):
            outputs = builder.emit_many(
                node.op,
                [values[v.name] if v is not None else None for v in node.inputs],
                _retype(node.attrs, target),
                [v.name for v in node.outputs],
            )
        values.update({old.name: new for old, new in zip(node.outputs, outputs, strict=True) if old.name})
    results = []
    for value in graph.outputs:
        result = values[value.name]
        keep = precision != "fp64" and isinstance(value.type, TensorType)
        results.append(_cast(builder, result, value.type.dtype) if keep else result)  # type: ignore[union-attr]
    return builder.finish(results)


def _converted(builder: Builder, value: Value, target: DType) -> Value:
    if isinstance(value.type, TensorType) and value.type.dtype in _RETYPED:
        return _cast(builder, value, target)
    return value


def _cast(builder: Builder, value: Value, dtype: DType) -> Value:
    from compiler.expr import arg, cast

    assert isinstance(value.type, TensorType)
    if value.type.dtype == dtype:
        return value
    return builder.emit("map", value, outputs=(cast(arg(0, value.type.dtype), dtype),))


def _retype(item: Any, target: DType) -> Any:
    """An attribute with every float type in it replaced."""
    if isinstance(item, DType):
        return target if item in _RETYPED else item
    if isinstance(item, np.ndarray):
        return _array(item, target)
    if isinstance(item, Expr):
        return _expr(item, target)
    if isinstance(item, Stage):
        return replace(item, expr=_expr(item.expr, target))
    if isinstance(item, Graph):
        return replace(item, constants={k: _array(a, target) for k, a in item.constants.items()})
    if isinstance(item, Mapping):
        return {key: _retype(value, target) for key, value in item.items()}
    if isinstance(item, tuple):
        return tuple(_retype(value, target) for value in item)
    return item


def _array(array: np.ndarray, target: DType) -> np.ndarray:
    known = array.dtype != object and dtypes.from_numpy(array.dtype) in _RETYPED
    return array.astype(target.numpy, copy=False) if known else array


def _expr(root: Expr, target: DType) -> Expr:
    from compiler import expr

    done: dict[Expr, Expr] = {}
    for node in walk(root):
        dtype = target if node.dtype in _RETYPED else node.dtype
        if node.op == "cast":
            done[node] = expr.cast(done[node.args[0]], dtype)
        else:
            done[node] = Expr(node.op, dtype, tuple(done[a] for a in node.args), node.value)
    return done[root]
