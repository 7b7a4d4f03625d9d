"""Products of quantized tensors: exact, of 8-bit operands less their zero points, then rescaled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import ModelError
from compiler.expr import Expr, arg, cast
from compiler.ir import Node, Value
from compiler.lowering.products import are_bytes
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map
from compiler.ops.onnx_types import onnx_row
from compiler.ops.pooling import window
from compiler.ops.quant import quantized
from compiler.ops.rounding import integer_limits
from compiler.ops.shape import known_shape
from compiler.ops.zero_points import (
    constant_term,
    epilogue_of_zero_points,
    is_constant_along,
    less_zero_points,
    needed,
)
from compiler.types import TensorType


@op("requantize")
class Requantize:
    """saturate(round(x * (scale * other / result)) + zero): a product of two quantized tensors, int32 or whole numbers
    in float32, in the zero point's type. Scales and zero point broadcast to x. The factor is computed in float64 and
    rounded to float32, in which x is multiplied and rounded: at ties the result may differ by one from that of exact
    arithmetic."""

    def infer(call: Call) -> list[TensorType]:
        shapes = [call.tensor(i).shape for i in range(5)]
        if shapes[0] is None or any(shape is None for shape in shapes):
            return [TensorType(call.tensor(4).dtype, shapes[0])]
        return [TensorType(call.tensor(4).dtype, call.broadcast(*shapes))]  # type: ignore[arg-type]

    def reference(
        x: np.ndarray, scale: np.ndarray, other: np.ndarray, result: np.ndarray, zero: np.ndarray
    ) -> np.ndarray:
        wide = [a.astype(np.float64) for a in (scale, other, result)]
        factor = (wide[0] * wide[1] / wide[2]).astype(np.float32)
        low, high = integer_limits(dtypes.from_numpy(zero.dtype))
        held = np.clip(np.rint(x.astype(np.float32) * factor) + zero.astype(np.float32), low, high)
        return np.asarray(held).astype(np.int32).astype(zero.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, *scales, zero = node.inputs
        target, f = node.output.type.dtype, dtypes.float32
        wide = [cast(arg(i, v.type.dtype), dtypes.float64) for i, v in enumerate(scales)]
        factor = emit_map(b, cast(wide[0] * wide[1] / wide[2], f), *scales, hint="factor")
        expr = quantized(cast(arg(0, x.type.dtype), f) * arg(1, f), arg(2, target), target, True)
        return emit_map(b, expr, x, factor, zero, hint="requantize")

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
    return _reshaped(b, parameter, (-1, 1))


def _channels(b: Builder, parameter: Value | None, axes: int) -> Value | None:
    """A parameter of convolution weights, one for each output channel, before `axes` more axes."""
    if parameter is None or len(known_shape(parameter)) != 1:
        return parameter
    return _reshaped(b, parameter, (-1, *[1] * axes))


def _reshaped(b: Builder, parameter: Value, shape: tuple[int, ...]) -> Value:
    """A parameter in another shape; a constant stays one."""
    known = b.constants.get(parameter.name)
    return b.emit("reshape", parameter, b.sizes(shape)) if known is None else b.constant(known.reshape(shape))


def exact_matmul(
    b: Builder, x: Value, x_zero: Value | None, w: Value, w_zero: Value | None, bias: Value | None = None
) -> Value:
    """The int32 product of x and w less their zero points, those of x one for each row where they are a vector, plus an
    int32 bias that broadcasts to it."""
    x_zero, w_zero = _rows(b, needed(b, x_zero)), needed(b, w_zero)
    types = [v.type.dtype for v in (x, w)]  # type: ignore[union-attr]
    shapes = [v.type.shape for v in (x, w)]  # type: ignore[union-attr]
    matrices = all(shape is not None and len(shape) > 1 for shape in shapes)
    if are_bytes(*types) and matrices and is_constant_along(x_zero, -1, x) and is_constant_along(w_zero, -2, w):
        term = _term(b, x_zero, w, w_zero, bias, (-2,), (*shapes[1][:-2], 1, shapes[1][-1]))  # type: ignore[index]
        operands, epilogue = _epilogue(x_zero, w_zero, bias, term)
        return b.emit("matmul", x, w, *operands, acc=dtypes.int32, epilogue=epilogue)
    product = b.emit("matmul", centred(b, x, x_zero), centred(b, w, w_zero))
    return product if bias is None else emit_map(b, arg(0, dtypes.int32) + arg(1, dtypes.int32), product, bias)


def _term(
    b: Builder, x_zero: Value | None, w: Value, w_zero: Value | None, bias: Value | None, axes: Any, shape: Any
) -> Value | None:
    """Bias less what x's zero point takes off, in one constant int32 operand; None where that is not known yet."""
    given = [b.constants.get(v.name) if v is not None else None for v in (x_zero, w, w_zero, bias)]
    unknown = any(v is not None and a is None for v, a in zip((x_zero, w, w_zero, bias), given, strict=True))
    if unknown or x_zero is None or given[0].size != 1:  # type: ignore[union-attr]
        return None
    total = -constant_term(given[0], given[1], given[2], axes, shape)  # type: ignore[arg-type]
    total = total if given[3] is None else total + given[3]
    return b.constant(total.astype(np.int32), "term")  # wraps, as the product does


def _epilogue(
    x_zero: Value | None, w_zero: Value | None, bias: Value | None, term: Value | None, fill: bool = False
) -> tuple[list[Value], tuple[Expr, ...]]:
    """Operands and epilogue of an exact product; `term` stands for all that x's zero point and the bias do. With `fill`
    x's zero point, where there is one, is the first operand."""
    operands, exprs = epilogue_of_zero_points(None if term is not None and not fill else x_zero, w_zero)
    added = bias if term is None else term
    if added is None:
        return operands, exprs
    if term is not None and fill:
        exprs = (less_zero_points(None, None if w_zero is None else arg(2, w_zero.type.dtype)),)  # type: ignore[union-attr]
    operands.append(added)
    total = exprs[0] if exprs else arg(0, dtypes.int32)
    return operands, (total + arg(len(operands), dtypes.int32),)


def exact_conv(
    b: Builder, node: Any, x: Value, x_zero: Value | None, w: Value, w_zero: Value | None, bias: Value | None = None
) -> Value:
    """The int32 convolution of an ONNX node's attributes: of x and w less their zero points, plus the bias."""
    kernel: Any = node.attr("kernel_shape") or known_shape(w)[2:]
    if not dims.is_static(kernel):
        raise ModelError(f"{b.place}: the kernel has sizes {kernel}; expected numbers: give kernel_shape")
    attrs = {"group": node.attr("group", 1), **window(node, known_shape(x)[2:], kernel)}
    return exact_core_conv(b, attrs, x, x_zero, w, w_zero, bias)


def exact_core_conv(
    b: Builder,
    attrs: Mapping[str, Any],
    x: Value,
    x_zero: Value | None,
    w: Value,
    w_zero: Value | None,
    bias: Value | None = None,
) -> Value:
    """The int32 convolution, of core conv's attributes, of x and w less their zero points, plus the int32 bias [O].
    Zero points: one of x, of w one or one for each output channel."""
    x_zero, w_zero, shape = needed(b, x_zero), needed(b, w_zero), known_shape(w)
    types = [v.type.dtype for v in (x, w)]  # type: ignore[union-attr]
    one = x_zero is None or (known_shape(x_zero) in ((), (1,)) and x_zero.type.dtype == types[0])  # type: ignore[union-attr]
    # A depthwise convolution multiplies in a window kernel, which has no sums for zero points.
    if is_depthwise(attrs["group"], shape) or not one or not are_bytes(*types):
        weights = centred(b, w, _channels(b, w_zero, len(shape) - 1))
        return b.emit("conv", centred(b, x, x_zero), weights, bias, **attrs)
    zeros = _channels(b, w_zero, len(shape) - 2)
    channels = (-1, *[1] * (len(shape) - 2))
    spread = None if bias is None else _channels(b, bias, len(shape) - 2)
    term = _term(b, x_zero, w, zeros, spread, tuple(range(1, len(shape))), channels)
    operands, epilogue = _epilogue(x_zero, zeros, spread, term, fill=True)
    return b.emit(
        "conv", x, w, None, *operands, acc=dtypes.int32, epilogue=epilogue, fill=int(x_zero is not None), **attrs
    )


def is_depthwise(group: int, shape: Sequence[Size]) -> bool:
    """Whether every channel has a kernel of its own; `shape` is that of the weights."""
    return group > 1 and shape[1] == 1 and shape[0] == group


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
