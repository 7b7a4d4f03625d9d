"""Precision: the graph retyped so that all float arithmetic happens in one asked-for type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dtypes, expr
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import Expr, arg, cast, walk
from compiler.ir import Graph, Value
from compiler.kernels import Stage
from compiler.reemit import reemit
from compiler.types import TensorType, ValueType

_RETYPED = frozenset({dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16})
NAMES = {"fp64": dtypes.float64, "fp32": dtypes.float32}


def set_precision(graph: Graph, precision: str) -> Graph:
    """`graph` computing in `precision` ("fp64" or "fp32"). Inputs keep their types and are converted on entry; outputs
    are converted back to the model's types, except in fp64, where they stay float64."""
    target = NAMES[precision]

    def entered(builder: Builder, value: Value) -> Value:
        known = isinstance(value.type, TensorType) and value.type.dtype in _RETYPED
        return _cast(builder, value, target) if known else value

    def result(builder: Builder, value: Value, type: ValueType) -> Value:
        keep = precision != "fp64" and isinstance(type, TensorType)
        return _cast(builder, value, type.dtype) if keep else value  # type: ignore[union-attr]

    return reemit(
        graph,
        entered=entered,
        constant=lambda array: _array(array, target),
        attribute=lambda item: _retype(item, target),
        result=result,
    )


def _cast(builder: Builder, value: Value, dtype: DType) -> Value:
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
        return in_type(item, target)
    if isinstance(item, Mapping):
        return {key: _retype(value, target) for key, value in item.items()}
    if isinstance(item, tuple):
        return tuple(_retype(value, target) for value in item)
    return item


def in_type(graph: Graph, target: DType) -> Graph:
    """`graph` with every float of another type in `target`: given such values, as bodies of control flow are, and
    answering with such."""

    def retyped(value: Value) -> ValueType:
        if isinstance(value.type, TensorType) and value.type.dtype in _RETYPED:
            return TensorType(target, value.type.shape)
        return value.type

    return reemit(
        graph,
        input_type=retyped,
        constant=lambda array: _array(array, target),
        attribute=lambda item: _retype(item, target),
    )


def _array(array: np.ndarray, target: DType) -> np.ndarray:
    known = array.dtype != object and dtypes.from_numpy(array.dtype) in _RETYPED
    return array.astype(target.numpy, copy=False) if known else array


def _expr(root: Expr, target: DType) -> Expr:
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        dtype = target if node.dtype in _RETYPED else node.dtype
        if node.op == "cast":
            done[node] = expr.cast(done[node.args[0]], dtype)
        else:
            done[node] = Expr(node.op, dtype, tuple(done[a] for a in node.args), node.value)
    return done[root]
