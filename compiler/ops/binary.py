"""Elementwise ops of two operands, and the variadic Sum, Mean, Max, Min."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size, Undecided
from compiler.dtypes import DType
from compiler.expr import Expr, apply, cast, const, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import (
    ANY,
    BOOL,
    FLOAT,
    INTEGER,
    NUMBER,
    Row,
    common_shape,
    declare_all,
    emit_map,
    in_float64,
    operand,
    wide,
)
from compiler.ops.extents import larger, smaller
from compiler.ops.onnx_types import align_second
from compiler.ops.rounding import integer_limits
from compiler.types import TensorType


def divide(a: Any, b: Any) -> Any:
    """IEEE division of floats; integers towards zero, x / 0 = 0."""
    if a.dtype.kind == "f":
        return a / b
    nonzero = np.where(b == 0, np.ones((), b.dtype), b)
    quotient = np.floor_divide(a, nonzero)
    towards_zero = (quotient * nonzero != a) & ((a < 0) != (nonzero < 0))
    return np.where(b == 0, np.zeros((), a.dtype), quotient + towards_zero.astype(a.dtype))


def divide_sizes(a: Size, b: Size) -> Size:
    """Integer division towards zero of sizes; raises Undecided where the divisor may not be positive."""
    if b == 0:
        return 0
    exact = dims.divide_exactly(a, b)
    if exact is not None:
        return exact
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if not b > 0:
        raise Undecided(f"the sign of {a} / {b} depends on the sizes")
    # Floored, so each sign apart: a size less one, as in a convolution's result, may be -1 for all that is known.
    signed = ((1, dims.maximum(a, 0)), (-1, dims.maximum(-a, 0)))
    return sum(sign * (part // b) for sign, part in signed if part != 0)


def floor_mod(a: Expr, b: Expr) -> Expr:
    """a - floor(a / b) * b, with the sign of b."""
    rest, zero = apply("rem", a, b), const(0, a.dtype)
    if a.dtype.kind == "uint":
        return rest
    opposite = apply("ne", apply("lt", rest, zero), apply("lt", b, zero))
    moved = select(apply("and", apply("ne", rest, zero), opposite), rest + b, rest)
    if not a.dtype.is_float:
        return moved
    return select(apply("eq", rest, zero), apply("copysign", zero, b), moved)


def _modulo(a: Expr, b: Expr, *, fmod: int) -> Expr:
    return apply("rem", a, b) if fmod else floor_mod(a, b)


def _modulo_sizes(a: Any, b: Any, *, fmod: int) -> Any:
    def one(x: Any, y: Any) -> Size:
        if isinstance(y, int) and y == 0:
            return 0
        return x - divide_sizes(x, y) * y if fmod else x % y

    return np.frompyfunc(one, 2, 1)(a, b)


def shift(x: Expr, by: Expr, *, direction: str) -> Expr:
    """x shifted by `by` bits; negative and too large counts shift everything out."""
    if by.dtype.kind == "int":
        by = select(apply("lt", by, const(0, by.dtype)), const(by.dtype.bits, by.dtype), by)
    return apply("shl" if direction == "LEFT" else "shr", x, by)


def _shift(x: Any, by: Any, *, direction: str) -> Any:
    return np.left_shift(x, by) if direction == "LEFT" else np.right_shift(x, by)


def chain(fn: str) -> Callable[..., Expr]:
    """One two-operand function over any number of operands, left to right."""
    return lambda *xs: reduce(partial(apply, fn), xs)


def _mean(*xs: Expr) -> Expr:
    return chain("add")(*xs) / float(len(xs))


def _compared(f: Callable[[Any, Any], bool]) -> Any:
    return np.frompyfunc(f, 2, 1)


def _equal(a: Any, b: Any) -> bool:
    return a == b if isinstance(a, str) else dims.equal(a, b)


def _binary(name: str, expr: Any, array: Any, onnx: str, **more: Any) -> Row:
    return Row(name, expr, array, onnx=onnx, arity=2, upgrades=((7, align_second),), **more)


def _arithmetic(name: str, onnx: str, array: Any, **more: Any) -> Row:
    return _binary(name, partial(apply, name), array, onnx, kinds=NUMBER, tracks=True, **more)


def _comparison(name: str, onnx: str, array: Any, fn: str, sizes: Any, kinds: Any = ANY) -> Row:
    row = _binary(name, partial(apply, fn), array, onnx, kinds=kinds, result="bool")
    return Row(**{**row.__dict__, "tracks": True, "sizes": _compared(sizes)})


def _of_bools(name: str, onnx: str, array: Any) -> Row:
    return _binary(name, partial(apply, name), array, onnx, kinds=BOOL, tracks=True)


def _bitwise(name: str, onnx: str, array: Any) -> Row:
    return _binary(f"bitwise_{name}", partial(apply, name), array, onnx, kinds=(*INTEGER, "bool"))


TABLE = (
    _arithmetic("add", "Add", np.add),
    _arithmetic("sub", "Sub", np.subtract),
    _arithmetic("mul", "Mul", np.multiply),
    _arithmetic("div", "Div", divide, sizes=np.frompyfunc(divide_sizes, 2, 1)),
    _binary(
        "mod", _modulo, lambda a, b, fmod: np.fmod(a, b) if fmod else np.mod(a, b), "Mod",
        kinds=NUMBER, attrs={"fmod": 0}, tracks=True, sizes=_modulo_sizes,
    ),
    _of_bools("and", "And", np.logical_and),
    _of_bools("or", "Or", np.logical_or),
    _of_bools("xor", "Xor", np.logical_xor),
    _bitwise("and", "BitwiseAnd", np.bitwise_and),
    _bitwise("or", "BitwiseOr", np.bitwise_or),
    _bitwise("xor", "BitwiseXor", np.bitwise_xor),
    _binary("bit_shift", shift, _shift, "BitShift", kinds=INTEGER, attrs={"direction": "LEFT"}),
    _comparison(
        "equal", "Equal", np.equal, "eq", _equal, (*ANY, "string")
    ),
    _comparison("less", "Less", np.less, "lt", lambda a, b: a < b),
    _comparison("less_or_equal", "LessOrEqual", np.less_equal, "le", lambda a, b: a <= b),
    _comparison("greater", "Greater", np.greater, "gt", lambda a, b: a > b),
    _comparison("greater_or_equal", "GreaterOrEqual", np.greater_equal, "ge", lambda a, b: a >= b),
    Row(
        "max", chain("max"), lambda *xs: reduce(np.maximum, xs), NUMBER, "Max", arity=0,
        tracks=True, sizes=lambda *xs: reduce(np.frompyfunc(larger, 2, 1), xs),
    ),
    Row(
        "min", chain("min"), lambda *xs: reduce(np.minimum, xs), NUMBER, "Min", arity=0,
        tracks=True, sizes=lambda *xs: reduce(np.frompyfunc(smaller, 2, 1), xs),
    ),
    Row("sum", chain("add"), lambda *xs: reduce(np.add, xs), FLOAT, "Sum", arity=0, ulp=2),
    Row("mean", _mean, lambda *xs: reduce(np.add, xs) / len(xs), FLOAT, "Mean", arity=0, ulp=3, special=False),
)  # fmt: skip

declare_all(TABLE)


@op("pow", onnx=OnnxRow("Pow", upgrades=((7, align_second),)))
class Pow:
    """x to the power y, in x's type. Integer powers wrap; a negative one of an integer is the truncated quotient."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(call.tensor(0).dtype, common_shape(call))]

    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        base, exponent = dtypes.from_numpy(x.dtype), dtypes.from_numpy(y.dtype)
        if base.is_integer and exponent.is_integer:
            return _integer_power(x, y)
        return in_float64(np.power, (x.astype(np.float64), y.astype(np.float64)), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, y = node.inputs
        base: DType = x.type.dtype
        known = b.contents(y)
        if known is not None and known.size == 1 and base.is_float:
            special = _fixed_power(operand(0, x), float(known.reshape(())))
            if special is not None and len(y.type.shape) <= len(x.type.shape):
                return emit_map(b, cast(special, base), x, hint="pow")
        inner = base if y.type.dtype.is_integer else dtypes.float64  # an integer to a real power is truncated
        inner = wide(base) if base.is_float else inner
        x_expr, y_expr = cast(operand(0, x), inner), operand(1, y)
        power = apply("pow", x_expr, cast(y_expr, inner)) if inner.is_float else integer_power(x_expr, y_expr)
        return emit_map(b, cast(power, base), x, y, hint="pow")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.uniform(0.1, 4, (3, 5)).astype(np.float32)
        yield Sample((x, rng.uniform(-3, 3, (5,)).astype(np.float32)), tolerance=2)
        yield Sample((x.astype(np.float64), np.array(2, np.int64)), tolerance=2, name="int64 exponent")
        for exponent in (-1.0, 0.5, 1.0, 2.0, 3.0, -0.5):
            yield Sample((x, np.array([exponent], np.float32)), tolerance=3, name=f"fixed {exponent}")
        bases = np.array([[-3, -1, 0, 1, 2, 7]], np.int32)
        yield Sample((bases, np.array([[0], [1], [5], [41]], np.int64)), name="integers")
        yield Sample((bases[:, [0, 1, 3, 4]], np.array([[-2], [-1]], np.int64)), name="negative")


def _fixed_power(x: Expr, exponent: float) -> Expr | None:
    """Powers that need no logarithm. The square root of a negative number is NaN, as is its power."""
    table: dict[float, Callable[[], Expr]] = {
        1.0: lambda: x,
        2.0: lambda: x * x,
        3.0: lambda: x * x * x,
        0.5: lambda: apply("sqrt", x),
        -0.5: lambda: 1.0 / apply("sqrt", x),
        -1.0: lambda: 1.0 / x,
        -2.0: lambda: 1.0 / (x * x),
    }
    return table[exponent]() if exponent in table else None


def integer_power(x: Expr, y: Expr) -> Expr:
    """x ** y with wraparound by repeated squaring over every bit of y."""
    zero, one = const(0, y.dtype), const(1, y.dtype)
    result, square = const(1, x.dtype), x
    bits = y.dtype.bits - (y.dtype.kind == "int")
    for bit in range(bits):
        taken = apply("ne", apply("and", apply("shr", y, const(bit, y.dtype)), one), zero)
        result = select(taken, result * square, result)
        square = square * square if bit + 1 < bits else square
    if y.dtype.kind == "uint":
        return result
    unit = apply("eq", x, const(1, x.dtype))
    if x.dtype.kind == "int":
        unit = apply("or", unit, apply("eq", x, const(-1, x.dtype)))
    odd = apply("ne", apply("and", y, one), zero)
    inverse = select(unit, select(odd, x, const(1, x.dtype)), const(0, x.dtype))
    return select(apply("lt", y, zero), inverse, result)


def _integer_power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    low, high = integer_limits(dtypes.from_numpy(x.dtype))

    def one(base: int, exponent: int) -> int:
        if exponent < 0:
            return (base if exponent % 2 else 1) if base in (1, -1) else 0
        return (pow(base, exponent, high - low + 1) - low) % (high - low + 1) + low

    return np.asarray(np.frompyfunc(one, 2, 1)(x.astype(object), y.astype(object))).astype(x.dtype)
