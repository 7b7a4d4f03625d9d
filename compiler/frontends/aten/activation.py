"""ATen activation functions: maps, computed in torch's computing type of the result."""

from __future__ import annotations

from collections.abc import Callable

from compiler.expr import Expr, apply, const, select
from compiler.frontends.aten.base import ROWS, AtenBuilder, aten, pointwise
from compiler.ir import Value
from compiler.ops.activation import gelu


def _clip(x: Expr, low: float, high: float) -> Expr:
    return apply("min", apply("max", x, const(low, x.dtype)), const(high, x.dtype))


def _softplus(x: Expr, beta: float, threshold: float) -> Expr:
    scaled = x * beta
    return select(apply("gt", scaled, const(threshold, x.dtype)), x, apply("log1p", apply("exp", scaled)) / beta)


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "silu": lambda x: x * apply("sigmoid", x),
    "hardsigmoid": lambda x: _clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hardswish": lambda x: x * _clip(x + 3.0, 0.0, 6.0) / 6.0,
    "mish": lambda x: x * apply("tanh", _softplus(x, 1.0, 20.0)),
    "relu": lambda x: apply("max", x, const(0, x.dtype)),
}
for _name, _build in ACTIVATIONS.items():
    ROWS[f"aten.{_name}.default"] = lambda b, x, build=_build: pointwise(b, (x,), build)


@aten("aten.gelu.default")
def _gelu(b: AtenBuilder, x: Value, approximate: str = "none") -> Value:
    return pointwise(b, (x,), lambda e: gelu(e, approximate=approximate))


@aten("aten.leaky_relu.default")
def _leaky_relu(b: AtenBuilder, x: Value, slope: float = 0.01) -> Value:
    return pointwise(b, (x,), lambda e: select(apply("gt", e, const(0, e.dtype)), e, e * slope))


@aten("aten._prelu_kernel.default")
def _prelu(b: AtenBuilder, x: Value, weight: Value) -> Value:
    return pointwise(b, (x, weight), lambda e, w: select(apply("gt", e, const(0, e.dtype)), e, w * e))


@aten("aten.elu.default")
def _elu(b: AtenBuilder, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    def build(e: Expr) -> Expr:
        below = apply("expm1", e * input_scale) * (alpha * scale)
        return select(apply("gt", e, const(0, e.dtype)), e * scale, below)

    return pointwise(b, (x,), build)


@aten("aten.softplus.default")
def _softplus_row(b: AtenBuilder, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    return pointwise(b, (x,), lambda e: _softplus(e, beta, threshold))


@aten("aten.hardtanh.default")
def _hardtanh(b: AtenBuilder, x: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return pointwise(b, (x,), lambda e: _clip(e, low, high))
