"""Products of quantized tensors: exact, of operands less their zero points, then rescaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map
from compiler.ops.onnx_types import onnx_row
from compiler.ops.pooling import build_conv
from compiler.ops.quant import quantized
from compiler.ops.rounding import integer_limits
from compiler.ops.shape import known_shape
from compiler.types import TensorType


@op("requantize")
class Requantize:
    """saturate(round(x * (scale * other / result)) + zero): an int32 product of two quantized tensors in the zero
    point's type. Scales and zero point broadcast to x; the arithmetic is float64, so only the result is rounded."""

    def infer(call: Call) -> list[TensorType]:
        shapes = [call.tensor(i).shape for i in range(5)]
        if shapes[0] is None or any(shape is None for shape in shapes):
            return [TensorType(call.tensor(4).dtype, shapes[0])]
        return [TensorType(call.tensor(4).dtype, call.broadcast(*shapes))]  # type: ignore[arg-type]

    def reference(
        x: np.ndarray, scale: np.ndarray, other: np.ndarray, result: np.ndarray, zero: np.ndarray
    ) -> np.ndarray:
        wide = [a.astype(np.float64) for a in (x, scale, other, result, zero)]
        low, high = integer_limits(dtypes.from_numpy(zero.dtype))
        held = np.clip(np.rint(wide[0] * (wide[1] * wide[2] / wide[3])) + wide[4], low, high)
        return np.asarray(held).astype(np.int32).astype(zero.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        wide = [cast(arg(i, v.type.dtype), dtypes.float64) for i, v in enumerate(node.inputs[:4])]  # type: ignore[union-attr]
        target = node.output.type.dtype
        expr = quantized(wide[0] * (wide[1] * wide[2] / wide[3]), arg(4, target), target, True)
        return emit_map(b, expr, *node.inputs, hint="requantize")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.integers(-4000, 4000, (2, 3, 5)).astype(np.int32)
        scales = (np.float32(0.02), rng.uniform(0.01, 0.1, (3, 1)).astype(np.float32), np.float32(0.05))
        for target in (np.int8, np.uint8):
            yield Sample((x, *map(np.asarray, scales), np.array(7, target)), name=np.dtype(target).name)
        half = tuple(np.asarray(scale, np.float16) for scale in scales)
        yield Sample((x, *half, np.array([1, 2, 3, 4, 5], np.uint8)), name="float16")


def centred(b: Builder, x: Value, zero: Value | None) -> Value:
    """x less its zero point as int32."""
    whole = cast(arg(0, x.type.dtype), dtypes.int32)  # type: ignore[union-attr]
    if zero is None:
        return emit_map(b, whole, x, hint="whole")
    difference = whole - cast(arg(1, zero.type.dtype), dtypes.int32)  # type: ignore[union-attr]
    return emit_map(b, difference, x, zero, hint="centred")


def _rows(b: Builder, parameter: Value | None) -> Value | None:
    """A parameter of the left operand of a product: one for each row, or as it is."""
    if parameter is None or len(known_shape(parameter)) != 1:
        return parameter
    return b.emit("reshape", parameter, b.sizes((-1, 1)))


def _channels(b: Builder, parameter: Value | None, axes: int) -> Value | None:
    """A parameter of convolution weights, one for each output channel, before `axes` more axes."""
    if parameter is None or len(known_shape(parameter)) != 1:
        return parameter
    return b.emit("reshape", parameter, b.sizes((-1, *[1] * axes)))


def _build_matmul_integer(b: Builder, node: Any) -> Value:
    left = centred(b, node.required(0), _rows(b, node.input(2)))
    return b.emit("matmul", left, centred(b, node.required(1), node.input(3)))


def _build_qlinear_matmul(b: Builder, node: Any) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = (node.required(i) for i in range(8))
    product = b.emit("matmul", centred(b, x, _rows(b, x_zero)), centred(b, w, w_zero))
    return b.emit("requantize", product, _rows(b, x_scale), w_scale, _rows(b, scale), _rows(b, zero))


def _exact_conv(b: Builder, node: Any, *operands: Value | None) -> Value:
    """The int32 convolution of an ONNX node's attributes: in float64, which holds every sum of 8-bit products."""
    wide = [v and b.emit("cast", v, to=dtypes.float64) for v in operands]
    total = b.emit("cast", build_conv(b, replace(node, inputs=tuple(wide))), to=dtypes.int64)
    return b.emit("cast", total, to=dtypes.int32)


def _build_conv_integer(b: Builder, node: Any) -> Value:
    x, w = node.required(0), node.required(1)
    weights = centred(b, w, _channels(b, node.input(3), len(known_shape(w)) - 1))
    return _exact_conv(b, node, centred(b, x, node.input(2)), weights)


def _build_qlinear_conv(b: Builder, node: Any) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = (node.required(i) for i in range(8))
    spatial = len(known_shape(w)) - 2
    weights = centred(b, w, _channels(b, w_zero, spatial + 1))
    total = _exact_conv(b, node, centred(b, x, x_zero), weights, node.input(8))
    return b.emit("requantize", total, x_scale, _channels(b, w_scale, spatial), scale, zero)


onnx_row("matmul", OnnxRow("MatMulInteger", build=_build_matmul_integer))
onnx_row("matmul", OnnxRow("QLinearMatMul", build=_build_qlinear_matmul))
onnx_row("conv", OnnxRow("ConvInteger", build=_build_conv_integer))
onnx_row("conv", OnnxRow("QLinearConv", build=_build_qlinear_conv))
