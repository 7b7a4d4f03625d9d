"""Products of quantized tensors: exact, of 8-bit operands less their zero points, then rescaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.lowering.products import are_bytes
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map
from compiler.ops.onnx_types import onnx_row
from compiler.ops.pooling import build_conv
from compiler.ops.quant import quantized
from compiler.ops.rounding import integer_limits
from compiler.ops.shape import known_shape
from compiler.ops.zero_points import epilogue_of_zero_points, is_constant_along, needed
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


def exact_matmul(b: Builder, x: Value, x_zero: Value | None, w: Value, w_zero: Value | None) -> Value:
    """The int32 product of x and w less their zero points, those of x one for each row where they are a vector."""
    x_zero, w_zero = _rows(b, needed(b, x_zero)), needed(b, w_zero)
    types = [v.type.dtype for v in (x, w)]  # type: ignore[union-attr]
    shapes = [v.type.shape for v in (x, w)]  # type: ignore[union-attr]
    matrices = all(shape is not None and len(shape) > 1 for shape in shapes)
    if are_bytes(*types) and matrices and is_constant_along(x_zero, -1, x) and is_constant_along(w_zero, -2, w):
        operands, epilogue = epilogue_of_zero_points(x_zero, w_zero)
        return b.emit("matmul", x, w, *operands, acc=dtypes.int32, epilogue=epilogue)
    return b.emit("matmul", centred(b, x, x_zero), centred(b, w, w_zero))


def exact_conv(
    b: Builder, node: Any, x: Value, x_zero: Value | None, w: Value, w_zero: Value | None, bias: Value | None = None
) -> Value:
    """The int32 convolution of an ONNX node's attributes: of x and w less their zero points, plus the bias."""
    x_zero, w_zero, shape = needed(b, x_zero), needed(b, w_zero), known_shape(w)
    # A depthwise convolution multiplies in a window kernel, which has no sums for zero points.
    depthwise = node.attr("group", 1) > 1 and shape[1] == 1 and shape[0] == node.attr("group", 1)
    types = [v.type.dtype for v in (x, w)]  # type: ignore[union-attr]
    one = x_zero is None or (known_shape(x_zero) in ((), (1,)) and x_zero.type.dtype == types[0])  # type: ignore[union-attr]
    if depthwise or not one or not are_bytes(*types):
        weights = centred(b, w, _channels(b, w_zero, len(shape) - 1))
        return build_conv(b, replace(node, inputs=(centred(b, x, x_zero), weights, bias)))
    operands, epilogue = epilogue_of_zero_points(x_zero, _channels(b, w_zero, len(shape) - 2))
    more = {"acc": dtypes.int32, "epilogue": epilogue, "fill": int(x_zero is not None)}
    return build_conv(b, replace(node, inputs=(x, w, bias)), *operands, **more)


def _build_matmul_integer(b: Builder, node: Any) -> Value:
    return exact_matmul(b, node.required(0), node.input(2), node.required(1), node.input(3))


def _build_qlinear_matmul(b: Builder, node: Any) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = (node.required(i) for i in range(8))
    product = exact_matmul(b, x, x_zero, w, w_zero)
    return b.emit("requantize", product, _rows(b, x_scale), w_scale, _rows(b, scale), _rows(b, zero))


def _build_conv_integer(b: Builder, node: Any) -> Value:
    return exact_conv(b, node, node.required(0), node.input(2), node.required(1), node.input(3))


def _build_qlinear_conv(b: Builder, node: Any) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = (node.required(i) for i in range(8))
    total = exact_conv(b, node, x, x_zero, w, w_zero, node.input(8))
    return b.emit("requantize", total, x_scale, _channels(b, w_scale, len(known_shape(w)) - 2), scale, zero)


onnx_row("matmul", OnnxRow("MatMulInteger", build=_build_matmul_integer))
onnx_row("matmul", OnnxRow("QLinearMatMul", build=_build_qlinear_matmul))
onnx_row("conv", OnnxRow("ConvInteger", build=_build_conv_integer))
onnx_row("conv", OnnxRow("QLinearConv", build=_build_qlinear_conv))
