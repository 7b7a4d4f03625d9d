"""Softmax, LogSoftmax and Hardmax: row programs of the core `reduce`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import Expr, apply, cast, const, index, kept, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, in_float64, operand
from compiler.ops.shape import known_shape
from compiler.types import TensorType

Stages = tuple[Stage, ...]


def softmax_program(x: Expr) -> tuple[Stages, Expr]:
    """Stages and element of softmax: exp(x - max) over its sum."""
    shifted = apply("exp", x - stat(0, x.dtype))
    stages = (Stage("max", x), Stage("sum", shifted, keep=True))
    return stages, kept(1, x.dtype) / stat(1, x.dtype)


def log_softmax_program(x: Expr) -> tuple[Stages, Expr]:
    """Stages and element of log(softmax(x)): x - max - log(sum(exp(x - max)))."""
    stages = (Stage("max", x), Stage("sum", apply("exp", x - stat(0, x.dtype))))
    return stages, x - stat(0, x.dtype) - apply("log", stat(1, x.dtype))


def _softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    weights = np.exp(x - np.max(x, axis=axes, keepdims=True, initial=-np.inf))
    return weights / np.sum(weights, axis=axes, keepdims=True)


def _log_softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    shifted = x - np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axes, keepdims=True))


def build_for(name: str) -> Callable[[Builder, Any], Value]:
    """The ONNX row: before opset 13 every axis from `axis` (1 if not given) on forms the row."""

    def build(b: Builder, node: Any) -> Value:
        x = node.required(0)
        axis = node.attr("axis", -1)
        if node.version < 13:
            rank = len(known_shape(x))
            axis = node.attrs.get("axis", 1)
            return b.emit(name, x, axes=tuple(range(axis % rank if rank else 0, rank)))
        return b.emit(name, x, axes=(axis,))

    return build


def _infer(call: Call) -> list[TensorType]:
    x = call.tensor(0)
    check_kind(call, x.dtype, FLOAT)
    for axis in call.attrs["axes"] if x.shape is not None else ():
        call.axis(axis, len(x.shape))
    return [x]


def _positive(axes: Sequence[int], value: Value) -> tuple[int, ...]:
    rank = len(known_shape(value))
    return tuple(sorted(a % rank for a in axes)) if rank else ()


def _samples(rng: np.random.Generator) -> Iterator[Sample]:
    x = rng.uniform(-6, 6, (3, 4, 5))
    for dtype in (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16):
        yield Sample((x.astype(dtype.numpy),), {"axes": (-1,)}, 8, str(dtype))
    yield Sample((x.astype(np.float32),), {"axes": (1,)}, 8, "middle")
    yield Sample((x.astype(np.float32),), {"axes": (1, 2)}, 8, "two axes")
    yield Sample((x[:, :, :1].astype(np.float32),), {"axes": (2,)}, 8, "one")
    odd = np.array([[-np.inf, 0, 1], [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf] * 3, [1e30, -1e30, 0]], np.float32)
    yield Sample((odd,), {"axes": (1,)}, 8, "special")


def _rows(name: str, program: Callable[[Expr], tuple[Stages, Expr]], b: Builder, node: Node) -> Value:
    x = node.inputs[0]
    axes = _positive(node.attrs["axes"], x)
    if not axes:
        x = b.emit("reshape", x, b.sizes((1,)))
    stages, element = program(operand(0, x))
    result = b.emit("reduce", x, hint=name, axes=axes or (0,), stages=stages, elements=(cast(element, x.type.dtype),))
    return result if axes else b.emit("reshape", result, b.sizes(()))


def _softmax_row(onnx: str, name: str) -> OnnxRow:
    return OnnxRow(onnx, build=build_for(name))


@op("softmax", onnx=_softmax_row("Softmax", "softmax"), attrs={"axes": (-1,)})
class Softmax:
    """exp(x) over its sum along `axes`. A row of -inf only, or with inf or NaN, is NaN."""

    infer = _infer
    samples = _samples

    def reference(x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
        return in_float64(lambda a: _softmax(a, axes if x.ndim else ()), (x,), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        return _rows("softmax", softmax_program, b, node)


@op("log_softmax", onnx=_softmax_row("LogSoftmax", "log_softmax"), attrs={"axes": (-1,)})
class LogSoftmax:
    """The logarithm of softmax along `axes`."""

    infer = _infer
    samples = _samples

    def reference(x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
        return in_float64(lambda a: _log_softmax(a, axes if x.ndim else ()), (x,), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        return _rows("log_softmax", log_softmax_program, b, node)


@op("hardmax", onnx=_softmax_row("Hardmax", "hardmax"), attrs={"axes": (-1,)})
class Hardmax:
    """1 at the first maximum along `axes`, 0 elsewhere."""

    infer = _infer

    def reference(x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
        first = min(a % x.ndim for a in axes)
        rows = x.astype(np.float64).reshape(*x.shape[:first], -1) if len(axes) > 1 else x.astype(np.float64)
        best = np.argmax(rows, axis=first, keepdims=True)
        places = np.arange(rows.shape[first]).reshape(-1, *[1] * (rows.ndim - first - 1))
        return (best == places).astype(x.dtype).reshape(x.shape)

    def decompose(b: Builder, node: Node) -> Value:
        x = node.inputs[0]
        axes, shape = _positive(node.attrs["axes"], x), known_shape(x)
        if len(axes) > 1:
            rows = b.emit("reshape", x, b.sizes((*shape[: axes[0]], -1)))
            hot = b.emit("hardmax", rows, axes=(-1,))
            return b.emit("reshape", hot, b.sizes(shape))
        value, dtype = operand(0, x), x.type.dtype
        element = select(apply("eq", index(axes[0]), stat(0, dtypes.int64)), const(1, dtype), const(0, dtype))
        return b.emit("reduce", x, hint="hardmax", axes=axes, stages=(Stage("argmax", value),), elements=(element,))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.integers(0, 3, (3, 4, 5)).astype(np.float32)
        for axes in ((0,), (1,), (-1,), (1, 2)):
            yield Sample((x,), {"axes": axes}, name=str(axes))
