"""Elementwise ATen calls: each is one map, with torch's type promotion written out as casts."""

from __future__ import annotations

import math
from collections.abc import Callable

from compiler import dtypes
from compiler.expr import Expr, apply, cast, const, select
from compiler.frontends.aten.base import (
    ROWS,
    AtenBuilder,
    Operand,
    aten,
    compute_type,
    pointwise,
    promote,
    tensor_type,
    unsupported,
)
from compiler.ir import Value


def _sign(x: Expr) -> Expr:
    zero, one = const(0, x.dtype), const(1, x.dtype)
    below = const(-1 if x.dtype.kind != "uint" else 0, x.dtype)
    # NaN compares false both ways and gives 0, as in torch.
    return select(apply("gt", x, zero), one, select(apply("lt", x, zero), below, zero))


# Functions of one tensor, computed in torch's computing type of the result.
UNARY: dict[str, Callable[[Expr], Expr]] = {
    **{
        name: (lambda x, name=name: apply(name, x))
        for name in (
            *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "erf", "erfc", "sigmoid"),
            *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
        )
    },
    "reciprocal": lambda x: 1.0 / x,
    "square": lambda x: x * x,
    "sign": _sign,
    "sgn": _sign,
}

# Functions that leave integers (and what is already whole) as they are.
ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint"}

# Functions of two operands, computed in torch's computing type of the result.
BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "mul": lambda x, y: _logical_or("mul", "and", x, y),
    "maximum": lambda x, y: _logical_or("max", "or", x, y),
    "minimum": lambda x, y: _logical_or("min", "and", x, y),
    "atan2": lambda x, y: apply("atan2", x, y),
    "copysign": lambda x, y: apply("copysign", x, y),
    "remainder": lambda x, y: remainder(x, y),
    "fmod": lambda x, y: apply("rem", x, y),
    "bitwise_and": lambda x, y: apply("and", x, y),
    "bitwise_or": lambda x, y: apply("or", x, y),
    "bitwise_xor": lambda x, y: apply("xor", x, y),
    "bitwise_left_shift": lambda x, y: apply("shl", x, y),
    "bitwise_right_shift": lambda x, y: apply("shr", x, y),
    "__lshift__": lambda x, y: apply("shl", x, y),
    "__rshift__": lambda x, y: apply("shr", x, y),
    "fmax": lambda x, y: _numbers("max", x, y),
    "fmin": lambda x, y: _numbers("min", x, y),
    "hypot": lambda x, y: apply("sqrt", x * x + y * y),
}
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
LOGICAL = ("and", "or", "xor")


def _logical_or(fn: str, logical: str, x: Expr, y: Expr) -> Expr:
    return apply(logical if x.dtype == dtypes.boolean else fn, x, y)


def _numbers(fn: str, x: Expr, y: Expr) -> Expr:
    # A NaN gives way to the other operand.
    return select(apply("ne", x, x), y, select(apply("ne", y, y), x, apply(fn, x, y)))


def remainder(x: Expr, y: Expr) -> Expr:
    """Python's x % y: the rest has the sign of y."""
    rest, zero = apply("rem", x, y), const(0, x.dtype)
    signs_differ = apply("ne", apply("lt", rest, zero), apply("lt", y, zero))
    return select(apply("and", apply("ne", rest, zero), signs_differ), rest + y, rest)


def floor_divide(x: Expr, y: Expr) -> Expr:
    """Python's x // y: exact quotients stay exact (torch: div_floor in BinaryOpsKernel)."""
    if x.dtype.kind == "uint":
        return x / y
    rest, zero = apply("rem", x, y), const(0, x.dtype)
    differ = apply("and", apply("ne", rest, zero), apply("ne", apply("lt", rest, zero), apply("lt", y, zero)))
    if x.dtype.is_integer:
        return select(differ, x / y - 1, x / y)
    quotient = (x - rest) / y
    quotient = select(differ, quotient - 1.0, quotient)
    low = apply("floor", quotient)
    whole = select(apply("gt", quotient - low, const(0.5, x.dtype)), low + 1.0, low)
    return select(apply("eq", y, zero), x / y, whole)


def _enter_tables() -> None:
    for name, build in UNARY.items():
        ROWS[f"aten.{name}.default"] = lambda b, x, build=build: pointwise(b, (x,), build)
    for name, fn in ROUNDING.items():
        ROWS[f"aten.{name}.default"] = lambda b, x, fn=fn: _round(b, x, fn)
    for name, binary in BINARY.items():
        for overload in ("Tensor", "Scalar", "Scalar_Tensor", "Tensor_Scalar", "default"):
            ROWS[f"aten.{name}.{overload}"] = lambda b, x, y, build=binary: pointwise(b, (x, y), build)
    for name in COMPARISONS:
        for overload in ("Tensor", "Scalar"):
            ROWS[f"aten.{name}.{overload}"] = lambda b, x, y, fn=name: _compare(b, x, y, fn)
    for name in LOGICAL:
        ROWS[f"aten.logical_{name}.default"] = lambda b, x, y, fn=name: pointwise(
            b, (x, y), lambda p, q: apply(fn, p, q), dtypes.boolean
        )


def _round(b: AtenBuilder, x: Value, fn: str) -> Value:
    return pointwise(b, (x,), lambda e: apply(fn, e)) if b.dtype.is_float else x


def _compare(b: AtenBuilder, x: Operand, y: Operand, fn: str) -> Value:
    return pointwise(b, (x, y), lambda p, q: apply(fn, p, q), promote(x, y))


_enter_tables()


@aten("aten.add.Tensor", "aten.add.Scalar")
def _add(b: AtenBuilder, x: Operand, y: Operand, alpha: float = 1) -> Value:
    if b.dtype == dtypes.boolean:
        return pointwise(b, (x, y), lambda p, q: apply("or", p, q))
    return pointwise(b, (x, y), lambda p, q: p + (q if alpha == 1 else q * alpha))


@aten("aten.sub.Tensor", "aten.sub.Scalar")
def _sub(b: AtenBuilder, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return pointwise(b, (x, y), lambda p, q: p - (q if alpha == 1 else q * alpha))


@aten("aten.rsub.Tensor", "aten.rsub.Scalar")
def _rsub(b: AtenBuilder, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return _sub(b, y, x, alpha)


@aten("aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.true_divide.Tensor")
def _div(b: AtenBuilder, x: Operand, y: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return pointwise(b, (x, y), floor_divide)
    if rounding_mode == "trunc" and b.dtype.is_float:
        return pointwise(b, (x, y), lambda p, q: apply("trunc", p / q))
    return pointwise(b, (x, y), lambda p, q: p / q)


@aten("aten.floor_divide.default", "aten.floor_divide.Scalar")
def _floor_div(b: AtenBuilder, x: Operand, y: Operand) -> Value:
    return pointwise(b, (x, y), floor_divide)


@aten("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def _pow(b: AtenBuilder, x: Operand, y: Operand) -> Value:
    if isinstance(y, (int, float)) and float(y) in _POWERS:
        return pointwise(b, (x,), _POWERS[float(y)])
    if b.dtype.is_float:
        return pointwise(b, (x, y), lambda p, q: apply("pow", p, q))
    if isinstance(y, int) and y >= 0:
        return pointwise(b, (x,), lambda p: _integer_power(p, y))
    raise unsupported(b, f"aten.pow of integers with exponent {y}; cast to float first")


_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.0: lambda x: const(1, x.dtype),
    0.5: lambda x: apply("sqrt", x),
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    -0.5: lambda x: 1.0 / apply("sqrt", x),
    -1.0: lambda x: 1.0 / x,
    -2.0: lambda x: 1.0 / (x * x),
}


def _integer_power(x: Expr, exponent: int) -> Expr:
    result, square = const(1, x.dtype), x
    while exponent:
        result = result * square if exponent & 1 else result
        square, exponent = square * square, exponent >> 1
    return result


@aten("aten.neg.default")
def _neg(b: AtenBuilder, x: Value) -> Value:
    return pointwise(b, (x,), lambda e: const(0, e.dtype) - e if e.dtype.kind == "uint" else -e)


@aten("aten.abs.default")
def _abs(b: AtenBuilder, x: Value) -> Value:
    return x if b.dtype.kind in ("uint", "bool") else pointwise(b, (x,), lambda e: apply("abs", e))


@aten("aten.round.decimals")
def _round_decimals(b: AtenBuilder, x: Value, decimals: int = 0) -> Value:
    scale = 10.0 ** abs(decimals)
    if decimals >= 0:
        return pointwise(b, (x,), lambda e: apply("rint", e * scale) / scale)
    return pointwise(b, (x,), lambda e: apply("rint", e / scale) * scale)


@aten("aten.clamp.default", "aten.clamp.Tensor")
def _clamp(b: AtenBuilder, x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    bounds = [(fn, bound) for fn, bound in (("max", min), ("min", max)) if bound is not None]

    def build(e: Expr, *limits: Expr) -> Expr:
        for (fn, _), limit in zip(bounds, limits, strict=True):
            e = apply(fn, e, limit)
        return e

    return pointwise(b, (x, *(bound for _, bound in bounds)), build)


@aten("aten.clamp_min.default", "aten.clamp_min.Tensor")
def _clamp_min(b: AtenBuilder, x: Value, low: Operand) -> Value:
    return _clamp(b, x, low)


@aten("aten.clamp_max.default", "aten.clamp_max.Tensor")
def _clamp_max(b: AtenBuilder, x: Value, high: Operand) -> Value:
    return _clamp(b, x, None, high)


@aten("aten.isnan.default")
def _isnan(b: AtenBuilder, x: Value) -> Value:
    return pointwise(b, (x,), lambda e: apply("ne", e, e), tensor_type(x).dtype)


@aten("aten.isinf.default")
def _isinf(b: AtenBuilder, x: Value) -> Value:
    held = compute_type(tensor_type(x).dtype)
    if not held.is_float:
        return pointwise(b, (x,), lambda e: apply("ne", e, e), held)
    return pointwise(b, (x,), lambda e: apply("eq", apply("abs", e), const(math.inf, held)), held)


@aten("aten.signbit.default")
def _signbit(b: AtenBuilder, x: Value) -> Value:
    held = tensor_type(x).dtype

    def build(e: Expr) -> Expr:
        one = apply("copysign", const(1, held), e) if held.is_float else e
        return apply("lt", one, const(0, held))

    return pointwise(b, (x,), build, held)


@aten("aten.logical_not.default")
def _logical_not(b: AtenBuilder, x: Value) -> Value:
    return pointwise(b, (x,), lambda e: apply("not", e), dtypes.boolean)


@aten("aten.bitwise_not.default")
def _bitwise_not(b: AtenBuilder, x: Value) -> Value:
    return pointwise(b, (x,), lambda e: apply("not", e))


@aten("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def _where(b: AtenBuilder, condition: Value, yes: Operand, no: Operand) -> Value:
    return pointwise(b, (condition, yes, no), lambda c, p, q: select(cast(c, dtypes.boolean), p, q), b.dtype, raw=1)


@aten("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(b: AtenBuilder, x: Value, mask: Value, value: Operand) -> Value:
    return _where(b, mask, value, x)


@aten("aten.lerp.Scalar", "aten.lerp.Tensor")
def _lerp(b: AtenBuilder, start: Value, end: Value, weight: Operand) -> Value:
    def build(x: Expr, y: Expr, w: Expr) -> Expr:
        near = apply("lt", apply("abs", w), const(0.5, w.dtype))
        return select(near, x + w * (y - x), y - (y - x) * (1.0 - w))

    return pointwise(b, (start, end, weight), build)
