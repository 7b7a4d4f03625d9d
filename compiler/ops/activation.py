"""Activation functions, with their attributes' ONNX defaults."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.expr import Expr, apply, const, select
from compiler.mathlib.reference import normcdf, sigmoid
from compiler.ops.elementwise import FLOAT, NUMBER, Row, declare_all, f32

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def maximum(x: Expr, bound: float) -> Expr:
    """max(x, constant); NaN stays."""
    return apply("max", x, const(bound, x.dtype))


def minimum(x: Expr, bound: float) -> Expr:
    """min(x, constant); NaN stays."""
    return apply("min", x, const(bound, x.dtype))


def above(x: Expr, bound: float, yes: Expr, no: Expr) -> Expr:
    """`yes` where x > bound, else `no`; so a NaN takes `no`."""
    return select(apply("gt", x, const(bound, x.dtype)), yes, no)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)) without overflow."""
    return maximum(x, 0) + apply("log1p", apply("exp", -apply("abs", x)))


def softplus_array(x: np.ndarray) -> np.ndarray:
    """The same on arrays."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def gelu(x: Expr, *, approximate: str) -> Expr:
    """x * Phi(x), or its tanh approximation (D. Hendrycks, K. Gimpel, arXiv 1606.08415).

    Phi is taken as 0.5 + 0.5 erf(x / sqrt 2), the operator's own definition: its absolute error is an ulp of one, and
    `erf` costs half of `normcdf`, whose relative accuracy in the far negative tail nothing downstream can see.
    """
    if approximate == "none":
        half = const(0.5, x.dtype)
        return x * apply("fma", apply("erf", x * math.sqrt(0.5)), half, half)
    return x * 0.5 * (1.0 + apply("tanh", (x + x * x * x * 0.044715) * _SQRT_2_OVER_PI))


def _gelu(x: np.ndarray, *, approximate: str) -> np.ndarray:
    if approximate == "none":
        return x * normcdf(x)
    return 0.5 * x * (1 + np.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x**3)))


def hard_sigmoid(x: Expr, *, alpha: float, beta: float) -> Expr:
    """max(0, min(1, alpha * x + beta))."""
    return maximum(minimum(x * alpha + beta, 1), 0)


def _hard_sigmoid(x: np.ndarray, *, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


def _shrink(x: Expr, *, bias: float, lambd: float) -> Expr:
    inner = select(apply("lt", x, const(-lambd, x.dtype)), x + bias, const(0, x.dtype))
    return above(x, lambd, x - bias, inner)


def _swish(x: Expr, *, alpha: float) -> Expr:
    return x * apply("sigmoid", x if alpha == 1 else x * alpha)


def _upgrade_prelu(b: Builder, node: Any) -> Any:
    """Before opset 7 a 1-d slope lies along axis 1."""
    slope, rank = node.required(1), len(node.required(0).type.shape)
    column = b.emit("reshape", slope, b.sizes((-1, *[1] * (rank - 2))))
    return replace(node, inputs=(node.inputs[0], column)).with_attrs(consumed_inputs=None)


def _row(name: str, onnx: str, expr: Any, array: Any, ulp: float = 4, **attrs: Any) -> Row:
    return Row(name, expr, array, FLOAT, onnx, attrs=attrs, ulp=ulp)


TABLE = (
    Row("relu", lambda x: maximum(x, 0), lambda x: np.maximum(x, 0), NUMBER, "Relu"),
    _row(
        "leaky_relu", "LeakyRelu", lambda x, alpha: select(apply("lt", x, const(0, x.dtype)), x * alpha, x),
        lambda x, alpha: np.where(x < 0, x * alpha, x), alpha=f32(0.01), ulp=1,
    ),
    _row(
        "thresholded_relu", "ThresholdedRelu", lambda x, alpha: above(x, alpha, x, const(0, x.dtype)),
        lambda x, alpha: np.where(x > alpha, x, 0.0), alpha=1.0, ulp=0,
    ),
    _row(
        "elu", "Elu", lambda x, alpha: above(x, 0, x, apply("expm1", x) * alpha),
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)), alpha=1.0,
    ),
    _row(
        "selu", "Selu",
        lambda x, alpha, gamma: above(x, 0, x, apply("expm1", x) * alpha) * gamma,
        lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(x)),
        alpha=f32(1.67326319217681884765625), gamma=f32(1.05070102214813232421875),
    ),
    _row(
        "celu", "Celu",
        lambda x, alpha: maximum(x, 0) + minimum(apply("expm1", x / alpha) * alpha, 0),
        lambda x, alpha: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)), alpha=1.0,
    ),
    _row("gelu", "Gelu", gelu, _gelu, approximate="none"),
    _row("softplus", "Softplus", softplus, softplus_array),
    _row(
        "softsign", "Softsign", lambda x: x / (1.0 + apply("abs", x)), lambda x: x / (1 + np.abs(x)), ulp=2
    ),
    _row(
        "mish", "Mish", lambda x: x * apply("tanh", softplus(x)), lambda x: x * np.tanh(softplus_array(x)),
        ulp=6,
    ),
    _row("hard_sigmoid", "HardSigmoid", hard_sigmoid, _hard_sigmoid, alpha=f32(0.2), beta=0.5, ulp=2),
    _row(
        "hard_swish", "HardSwish", lambda x: x * hard_sigmoid(x, alpha=1 / 6, beta=0.5),
        lambda x: x * _hard_sigmoid(x, alpha=1 / 6, beta=0.5), ulp=3,
    ),
    _row(
        "shrink", "Shrink", _shrink,
        lambda x, bias, lambd: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0)),
        bias=0.0, lambd=0.5, ulp=1,
    ),
    _row("swish", "Swish", _swish, lambda x, alpha: x * sigmoid(alpha * x), alpha=1.0),
    Row(
        "swiglu", lambda a, b, alpha: _swish(a, alpha=alpha) * b,
        lambda a, b, alpha: a * sigmoid(alpha * a) * b,
        FLOAT, "SwiGLU", arity=2, attrs={"alpha": 1.0}, ulp=8, special=False,
    ),
    Row(
        "prelu", lambda x, slope: select(apply("lt", x, const(0, x.dtype)), x * slope, x),
        lambda x, slope: np.where(x < 0, x * slope, x), NUMBER, "PRelu", arity=2,
        upgrades=((7, _upgrade_prelu),),
    ),
)  # fmt: skip

declare_all(TABLE)
