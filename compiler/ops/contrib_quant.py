"""ONNX Runtime's operators on quantized tensors (domain com.microsoft), as its quantizers write them: dequantized, then
the plain operator, then quantized. The pass fold_quantized makes of that what computes on the bytes. Meanings are those
of onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.errors import UnsupportedOp
from compiler.ir import Value
from compiler.op import ONNX_ROWS, REGISTRY
from compiler.ops import (  # noqa: F401 - these operators are made of their ops
    activation,
    binary,
    contrib_norm,
    convert,
    linear,
    pooling,
    quant_products,
    recurrent,
    reduction,
    softmax,
    unary,
)
from compiler.ops.contrib_attention import ATTENTION, attention
from compiler.ops.contrib_norm import MICROSOFT, contrib
from compiler.ops.quant import DequantizeLinear, QuantizeLinear
from compiler.ops.shape import known_shape


def dequantized(b: Builder, x: Value, scale: Value, zero: Value | None, axis: int = 1) -> Value:
    """(x - zero) * scale; parameters of more than one element are along `axis`."""
    return b.emit("dequantize_linear", x, scale, zero, axis=axis)


def requantized(b: Builder, x: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    """x quantized, as uint8 or int8: the zero point's type, or where there is none that of `like`."""
    if zero is None:
        zero = b.constant(np.zeros((), like.type.dtype.numpy))  # type: ignore[union-attr]
    return b.emit("quantize_linear", x, scale, zero)


def _operands(b: Builder, node: Any, *firsts: int) -> list[Value]:
    """Dequantized inputs; each is followed by its scale and zero point."""
    return [dequantized(b, node.required(i), node.required(i + 1), node.input(i + 2)) for i in firsts]


def _unary(op: str, *names: str) -> Callable[[Builder, Any], Value]:
    """x, its scale and zero point, scale and zero point of the result; op's attributes `names`."""

    def build(b: Builder, node: Any) -> Value:
        (x,) = _operands(b, node, 0)
        result = b.emit(op, x, **{name: node.attr(name) for name in names})
        return requantized(b, result, node.required(3), node.input(4), node.required(0))

    return build


def _binary(op: str) -> Callable[[Builder, Any], Value]:
    """Two tensors, each with scale and zero point, then those of the result."""

    def build(b: Builder, node: Any) -> Value:
        result = b.emit(op, *_operands(b, node, 0, 3))
        return requantized(b, result, node.required(6), node.input(7), node.required(0))

    return build


def _where(b: Builder, node: Any) -> Value:
    result = b.emit("where", node.required(0), *_operands(b, node, 1, 4))
    return requantized(b, result, node.required(7), node.input(8), node.required(1))


def _concat(b: Builder, node: Any) -> Value:
    """Scale and zero point of the result, then each tensor with its own."""
    parts = [
        dequantized(b, node.required(i), node.required(i + 1), node.input(i + 2)) for i in range(2, len(node.inputs), 3)
    ]
    joined = b.emit("concat", *parts, axis=node.attr("axis")) if len(parts) > 1 else parts[0]
    return requantized(b, joined, node.required(0), node.input(1), node.required(2))


def _softmax(b: Builder, node: Any) -> Value:
    """Before opset 13 all axes from `axis` on are one."""
    (x,) = _operands(b, node, 0)
    shape, axis = known_shape(x), node.attr("axis")
    if node.attr("opset") >= 13:
        result = b.emit("softmax", x, axes=(axis,))
    else:
        rows = b.emit("softmax", b.emit("flatten", x, axis=axis), axes=(-1,))
        result = b.emit("reshape", rows, b.sizes(shape))
    return requantized(b, result, node.required(3), node.input(4), node.required(0))


def _mean(b: Builder, node: Any) -> Value:
    (x,) = _operands(b, node, 0)
    axes = node.attr("axes") or tuple(range(len(known_shape(x))))
    result = b.emit("reduce_mean", x, b.constant(np.array(axes, np.int64)), keepdims=node.attr("keepdims"))
    return requantized(b, result, node.required(3), node.input(4), node.required(0))


def _pool(whole: bool) -> Callable[[Builder, Any], Value]:
    """An average pool of x, or of `whole` of it; with `channels_last` its axes are [N, spatial.., C]."""

    def build(b: Builder, node: Any) -> Value:
        (x,) = _operands(b, node, 0)
        rank, last = len(known_shape(x)), bool(node.attr("channels_last"))
        turned = b.emit("transpose", x, perm=(0, rank - 1, *range(1, rank - 1))) if last else x
        if whole:
            result = b.emit("global_average_pool", turned)
        else:
            entry = ONNX_ROWS["", "AveragePool"][1].build
            result = entry(b, replace(node, inputs=(turned,)))  # type: ignore[misc]
        if last:
            result = b.emit("transpose", result, perm=(0, *range(2, rank), 1))
        return requantized(b, result, node.required(3), node.input(4), node.required(0))

    return build


def _conv(b: Builder, node: Any) -> Value:
    """ONNX's QLinearConv; with `channels_last` x and the result are [N, spatial.., C]."""
    entry, x = ONNX_ROWS["", "QLinearConv"][1].build, node.required(0)
    if not node.attr("channels_last"):
        return entry(b, node)  # type: ignore[misc,no-any-return]
    rank = len(known_shape(x))
    turned = b.emit("transpose", x, perm=(0, rank - 1, *range(1, rank - 1)))
    result = entry(b, replace(node, inputs=(turned, *node.inputs[1:])))  # type: ignore[misc]
    return b.emit("transpose", result, perm=(0, *range(2, rank), 1))


def _gemm(b: Builder, node: Any) -> Value:
    """Gemm of bytes plus an int32 bias in units of the product, quantized again where a scale is given."""
    (x,) = _operands(b, node, 0)
    w = dequantized(b, node.required(3), node.required(4), node.input(5), axis=0 if node.attr("transB") else 1)
    attrs = {name: node.attr(name) for name in ("alpha", "transA", "transB")}
    bias = node.input(6)
    if bias is not None:
        unit = _product(b, node.required(1), node.required(4), node.attr("alpha"))
        bias = dequantized(b, bias, unit, None, axis=len(known_shape(bias)) - 1)
    result = b.emit("gemm", x, w, bias, **attrs)
    scale = node.input(7)
    return result if scale is None else requantized(b, result, scale, node.input(8), node.required(0))


def _product(b: Builder, one: Value, other: Value, times: float = 1.0) -> Value:
    known = [b.constants.get(v.name) for v in (one, other)]
    if known[0] is not None and known[1] is not None:
        return b.constant(np.asarray(known[0] * known[1] * np.float32(times)), "unit")
    product = b.emit("mul", one, other)
    return product if times == 1 else b.emit("mul", product, b.constant(np.float32(times)))


def _columns_dequantized(b: Builder, w: Value, scale: Value, zero: Value | None) -> Value:
    """Matrices [.., K, N] with one scale, or one for each column."""
    return dequantized(b, w, scale, zero, axis=len(known_shape(w)) - 1)


def _matmul(b: Builder, node: Any) -> Value:
    """A, B, their scales, their zero points, a bias: float32."""
    x = dequantized(b, node.required(0), node.required(2), node.input(4), axis=len(known_shape(node.required(0))) - 2)
    product = b.emit("matmul", x, _columns_dequantized(b, node.required(1), node.required(3), node.input(5)))
    return product if node.input(6) is None else b.emit("add", product, node.input(6))


def _dynamic_matmul(b: Builder, node: Any) -> Value:
    """A float32 is quantized by its own range; B, its scale and zero point, a bias."""
    x, scale, zero = b.emit_many("dynamic_quantize_linear", [node.required(0)], {}, ["x", "scale", "zero"])
    w = _columns_dequantized(b, node.required(1), node.required(2), node.input(3))
    product = b.emit("matmul", dequantized(b, x, scale, zero), w)
    return product if node.input(4) is None else b.emit("add", product, node.input(4))


def _dynamic_lstm(b: Builder, node: Any) -> Any:
    """LSTM whose W [D, I, 4 H] and R [D, H, 4 H] are bytes; x stays as it is, where ONNX Runtime quantizes it."""
    weights = []
    for i, scale in ((1, 8), (2, 10)):
        if len(known_shape(node.required(scale))) > 1 or known_shape(node.required(scale)) not in ((), (1,)):
            raise UnsupportedOp(
                f"{b.place}: DynamicQuantizeLSTM with a scale for each column; expected one for a matrix"
            )
        w = dequantized(b, node.required(i), node.required(scale), node.input(scale + 1))
        weights.append(b.emit("transpose", w, perm=(0, 2, 1)))
    inputs = [node.required(0), *weights, *(node.input(i) for i in range(3, 8))]
    names = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size")
    attrs = {name: node.attr(name) for name in (*names, "input_forget")}
    return b.emit_many("lstm", inputs, attrs, [*node.outputs])


def _attention(b: Builder, node: Any) -> Any:
    """Attention whose input and projection are bytes, with a float bias."""
    x = dequantized(b, node.required(0), node.required(3), node.input(6))
    w = _columns_dequantized(b, node.required(1), node.required(4), node.input(7))
    return attention(b, replace(node, inputs=(x, w, node.input(2), node.input(5), node.input(8), None)))


def _embed(b: Builder, node: Any) -> Any:
    """EmbedLayerNormalization of tables, scale and bias in bytes."""
    tables = [
        None if node.input(i) is None else dequantized(b, node.required(i), node.required(6 + i), node.input(11 + i))
        for i in range(2, 7)
    ]
    build = ONNX_ROWS[MICROSOFT, "EmbedLayerNormalization"][1].build
    return build(b, replace(node, inputs=(*node.inputs[:2], *tables, node.input(7), None)))  # type: ignore[misc]


_POOL = {"auto_pad": "NOTSET", "ceil_mode": 0, "channels_last": 0, "count_include_pad": 0, "kernel_shape": None,
         "pads": (), "strides": ()}  # fmt: skip
_LSTM = {"activation_alpha": None, "activation_beta": None, "activations": None, "clip": None, "direction": "forward",
         "hidden_size": None, "input_forget": 0}  # fmt: skip
_EMBED = {"epsilon": float(np.float32(1e-12)), "mask_index_type": 0}

contrib(
    QuantizeLinear,
    "QuantizeLinear",
    {"axis": 1},
    lambda b, n: b.emit("quantize_linear", *n.inputs, axis=n.attr("axis")),
)
contrib(
    DequantizeLinear,
    "DequantizeLinear",
    {"axis": 1},
    lambda b, n: b.emit("dequantize_linear", *n.inputs, axis=n.attr("axis")),
)
contrib(REGISTRY["add"], "QLinearAdd", {}, _binary("add"))
contrib(REGISTRY["mul"], "QLinearMul", {}, _binary("mul"))
contrib(REGISTRY["sigmoid"], "QLinearSigmoid", {}, _unary("sigmoid"))
contrib(REGISTRY["leaky_relu"], "QLinearLeakyRelu", {"alpha": float(np.float32(0.01))}, _unary("leaky_relu", "alpha"))
contrib(REGISTRY["softmax"], "QLinearSoftmax", {"axis": -1, "opset": 13}, _softmax)
contrib(REGISTRY["reduce_mean"], "QLinearReduceMean", {"axes": None, "keepdims": 1}, _mean)
contrib(REGISTRY["pool"], "QLinearAveragePool", _POOL, _pool(False))
contrib(REGISTRY["global_average_pool"], "QLinearGlobalAveragePool", {"channels_last": 0}, _pool(True))
contrib(REGISTRY["concat"], "QLinearConcat", {"axis": None}, _concat)
contrib(REGISTRY["where"], "QLinearWhere", {}, _where)
contrib(REGISTRY["conv"], "QLinearConv", {"channels_last": 0, "group": 1}, _conv)
contrib(REGISTRY["gemm"], "QGemm", {"alpha": 1.0, "transA": 0, "transB": 0}, _gemm)
contrib(REGISTRY["matmul"], "MatMulIntegerToFloat", {}, _matmul)
contrib(REGISTRY["matmul"], "DynamicQuantizeMatMul", {}, _dynamic_matmul)
contrib(REGISTRY["lstm"], "DynamicQuantizeLSTM", _LSTM, _dynamic_lstm)
contrib(REGISTRY["attention"], "QAttention", ATTENTION, _attention)
contrib(REGISTRY["layer_norm"], "QEmbedLayerNormalization", _EMBED, _embed)
