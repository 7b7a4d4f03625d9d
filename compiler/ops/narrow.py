"""Floats of at most 8 bits as integer expressions: a map reads and writes their codes, one to a byte.

Every special code is what ml_dtypes makes of that number, so a format is described once, there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, bitcast, cast, const, select
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, Sample, op
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

# Of a wide type: its bits as integers, mantissa bits, exponent bias.
_WIDE = {dtypes.float32: (dtypes.int32, 23, 127), dtypes.float64: (dtypes.int64, 52, 1023)}


def is_narrow(dtype: DType) -> bool:
    """Whether kernels know the type only by its codes."""
    return dtype.is_float and dtype.bits <= 8


@op("reinterpret", attrs={"to": REQUIRED})
class Reinterpret:
    """The stored bytes of x as elements of a type stored in as many."""

    def infer(call: Call) -> list[TensorType]:
        x, to = call.tensor(0), call.attrs["to"]
        if x.dtype.bytes != to.bytes:
            call.dtype_error(f"{x.dtype} takes {x.dtype.bytes} bytes, {to} {to.bytes}; use types stored alike")
        return [TensorType(to, x.shape)]

    def reference(x: np.ndarray, *, to: DType) -> np.ndarray:
        return np.ascontiguousarray(x).view(to.numpy).reshape(x.shape)

    def lower(node: Node, low: Lowering) -> None:
        view, to = low.view(node.inputs[0]), node.attrs["to"]  # type: ignore[arg-type]
        if not is_narrow(to):  # only maps read the codes
            low.alias(node.output, replace(view, dtype=to))
            return
        low.copy(view, replace(low.allocate(node.output), dtype=view.dtype))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        codes = rng.integers(0, 127, (3, 5)).astype(np.uint8)
        yield Sample((codes,), {"to": dtypes.float8_e4m3fn})
        yield Sample((codes.view(ml_dtypes.float8_e5m2),), {"to": dtypes.uint8}, name="codes")


def readable(b: Builder, value: Value) -> Value:
    """The value a map can read: a narrow float as its codes, anything else as it is."""
    dtype: DType = value.type.dtype  # type: ignore[union-attr]
    return b.emit("reinterpret", value, to=dtypes.uint8, hint="codes") if is_narrow(dtype) else value


def element(number: int, dtype: DType) -> Expr:
    """Operand `number` of a map over `readable` of a value of type `dtype`: a narrow float as float32."""
    return decoded(arg(number, dtypes.uint8), dtype) if is_narrow(dtype) else arg(number, dtype)


def emit_narrow_map(b: Builder, expr: Expr, to: DType, *values: Value, hint: str) -> Value:
    """A map of `expr`, which for a narrow `to` gives codes, over readable values."""
    result = b.emit("map", *values, hint=hint, outputs=(expr,), shape=None)
    return b.emit("reinterpret", result, to=to, hint=hint) if is_narrow(to) else result


@dataclass(frozen=True)
class _Format:
    """mantissa bits, exponent bias, and codes: the sign bit, the greatest number, what ±infinity and ±NaN become (also
    what a number too large becomes), and whether zero has a sign."""

    mantissa: int
    bias: int
    sign: int
    greatest: int
    infinities: tuple[int, int]
    nans: tuple[int, int]
    signed_zero: bool


@lru_cache(maxsize=16)
def _format(dtype: DType) -> _Format:
    info = ml_dtypes.finfo(dtype.numpy)

    def codes(*numbers: float) -> list[int]:
        with np.errstate(all="ignore"):
            return [int(c) for c in np.array(numbers, np.float32).astype(dtype.numpy).view(np.uint8)]

    greatest, over, under, nan, other, zero = codes(float(info.max), np.inf, -np.inf, np.nan, -np.nan, -0.0)
    return _Format(info.nmant, 1 - info.minexp, 1 << dtype.bits - 1, greatest, (over, under), (nan, other), bool(zero))


def encoded(x: Expr, to: DType) -> Expr:
    """The code, as uint8, of a float32 or float64 in a narrow type, rounded to nearest even."""
    form, wide = _format(to), x.dtype
    bits, mantissa, bias = _WIDE[wide]
    drop, first = mantissa - form.mantissa, 1 - form.bias  # bits rounded away, exponent of the least normal number
    size, one = bitcast(apply("abs", x), bits), const(1, bits)
    odd = apply("and", apply("shr", size, const(drop, bits)), one)
    rounded = apply("shr", size + odd + ((1 << drop - 1) - 1), const(drop, bits)) - (bias - form.bias << form.mantissa)
    fixed = cast(apply("rint", apply("abs", x) * 2.0 ** (form.mantissa - first)), bits)
    code = select(apply("lt", apply("abs", x), const(2.0**first, wide)), fixed, rounded)
    negative = apply("lt", bitcast(x, bits), const(0, bits))
    signed = select(negative, apply("or", code, const(form.sign, bits)), code)
    if not form.signed_zero:
        signed = select(apply("eq", code, const(0, bits)), code, signed)
    for special, (plus, minus) in (
        (apply("gt", code, const(form.greatest, bits)), form.infinities),
        (apply("ne", x, x), form.nans),
    ):
        signed = select(special, select(negative, const(minus, bits), const(plus, bits)), signed)
    return cast(signed, dtypes.uint8)


def decoded(code: Expr, dtype: DType) -> Expr:
    """The float32 that a uint8 code of a narrow type stands for."""
    if dtype == dtypes.float8_e8m0fnu:
        return _power(code)
    form, wide, bits = _format(dtype), dtypes.float32, dtypes.int32
    whole = cast(code, bits)
    size = apply("and", whole, const(form.sign - 1, bits))
    normal = apply("shl", size + (127 - form.bias << form.mantissa), const(23 - form.mantissa, bits))
    fixed = cast(size, wide) * 2.0 ** (1 - form.bias - form.mantissa)
    value = select(apply("lt", size, const(1 << form.mantissa, bits)), fixed, bitcast(normal, wide))
    beyond = const(np.nan, wide)
    if form.infinities[0] == form.greatest + 1 and form.nans[0] != form.infinities[0]:
        beyond = select(apply("eq", size, const(form.infinities[0], bits)), const(np.inf, wide), beyond)
    if form.greatest < form.sign - 1:
        value = select(apply("gt", size, const(form.greatest, bits)), beyond, value)
    negative = apply("ne", apply("and", whole, const(form.sign, bits)), const(0, bits))
    value = select(negative, -value, value)
    if not form.signed_zero:  # the code of -0 is the NaN
        value = select(apply("eq", whole, const(form.sign, bits)), const(np.nan, wide), value)
    return value


def _power(code: Expr) -> Expr:
    """2**(code - 127), NaN for 255."""
    bits = cast(code, dtypes.int32)
    power = bitcast(apply("shl", bits, const(23, dtypes.int32)), dtypes.float32)
    power = select(apply("eq", bits, const(0, dtypes.int32)), const(2.0**-127, dtypes.float32), power)
    return select(apply("eq", bits, const(255, dtypes.int32)), const(np.nan, dtypes.float32), power)


def exponent(x: Expr, mode: str, saturate: bool) -> Expr:
    """The float8_e8m0fnu code of a float64, as rounding.to_exponent defines it."""
    bits = dtypes.int64
    size = bitcast(apply("abs", x), bits)
    above = {"up": (1 << 52) - 1, "nearest": 1 << 51, "down": 0}[mode]
    power = apply("shr", size + above, const(52, bits)) - (1023 - 127)
    low, high = const(0, bits), const(254, bits)
    code = apply("min", apply("max", power, low), high)
    bad = apply("ne", x, x)
    if not saturate:
        bad = apply("or", bad, apply("ne", code, power))
    return cast(select(bad, const(255, bits), code), dtypes.uint8)
