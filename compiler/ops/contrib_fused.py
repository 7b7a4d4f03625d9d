"""Products and convolutions with an activation, as ONNX Runtime's own graph optimizer writes them into a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from compiler.builder import Builder
from compiler.errors import UnsupportedOp
from compiler.expr import Expr, apply, cast, const, select
from compiler.ir import Value
from compiler.ops.activation import hard_sigmoid, maximum, minimum
from compiler.ops.contrib_norm import contrib, total
from compiler.ops.core_products import Conv
from compiler.ops.elementwise import emit_map, operand
from compiler.ops.linear import Gemm
from compiler.ops.pooling import build_conv

# Each with its parameters in ONNX Runtime's order.
_ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "Relu": lambda x: maximum(x, 0),
    "Tanh": lambda x: apply("tanh", x),
    "Sigmoid": lambda x: apply("sigmoid", x),
    "LeakyRelu": lambda x, alpha: select(apply("lt", x, const(0, x.dtype)), x * alpha, x),
    "HardSigmoid": lambda x, alpha, beta: hard_sigmoid(x, alpha=alpha, beta=beta),
    "Clip": lambda x, low, high: minimum(maximum(x, low), high),
}


def _activated(b: Builder, name: str, parameters: Sequence[float], x: Value) -> Value:
    if not name:
        return x
    if name not in _ACTIVATIONS:
        raise UnsupportedOp(f"{b.place}: activation {name} is not known; expected {', '.join(_ACTIVATIONS)}")
    return emit_map(b, cast(_ACTIVATIONS[name](operand(0, x), *parameters), x.type.dtype), x, hint=name.lower())


def _fused_gemm(b: Builder, node: Any) -> Value:
    attrs = {name: node.attr(name) for name in ("alpha", "beta", "transA", "transB")}
    product = b.emit("gemm", *node.inputs, **attrs)
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    parameters = [node.attr(name) for name in names if node.attr(name) is not None]
    return _activated(b, node.attr("activation"), parameters, product)


def _fused_conv(b: Builder, node: Any) -> Value:
    """The convolution of inputs 0 to 2, plus input 3, then the activation."""
    added = node.input(3)
    result = build_conv(b, replace(node, inputs=node.inputs[:3]))
    if added is not None:
        result = total(b, [result, added])
    return _activated(b, node.attr("activation"), node.attr("activation_params"), result)


_GEMM = {"activation": "", "activation_alpha": None, "activation_beta": None, "activation_gamma": None, "alpha": 1.0,
         "beta": 1.0, "transA": 0, "transB": 0}  # fmt: skip
contrib(Gemm, "FusedGemm", _GEMM, _fused_gemm)
contrib(Conv, "FusedConv", {"activation": "", "activation_params": ()}, _fused_conv)
