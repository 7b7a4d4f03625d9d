"""Casts and bitcasts between register elements, as compiler/expr.py defines them."""

from __future__ import annotations

import re

from llvmlite import ir

from backends.native.vectors import (
    FLOAT,
    I32,
    constant,
    from_storage,
    intrinsic,
    lanes_of,
    llvm_type,
    register_type,
    to_storage,
    widen,
    wrap_narrow,
)
from compiler.dtypes import DType

_ROUNDS = re.compile(r'"rounds-to-bfloat"="(\d+)"')


def rounds_to_bfloat(lanes: int) -> str:
    """The attribute of functions that have an instruction for it, for so many lanes."""
    return f'"rounds-to-bfloat"="{lanes}"'


def _lanes_at_once(function: ir.Function) -> int:
    return next((int(found[1]) for found in map(_ROUNDS.fullmatch, function.attributes) if found), 0)


def emit_cast(builder: ir.IRBuilder, value: ir.Value, source: DType, target: DType) -> ir.Value:
    """`value` of type `source` converted to `target`: rounding to nearest even, float to int saturating."""
    if target.kind == "bool":
        zero = constant(value.type, 0)
        return (
            builder.fcmp_unordered("!=", value, zero) if source.is_float else builder.icmp_unsigned("!=", value, zero)
        )
    if source.is_float and target.is_float:
        return _float_to_float(builder, value, source, target)
    if source.is_float:
        return _float_to_integer(builder, value, target)
    if target.is_float:
        return _integer_to_float(builder, value, source, target)
    return _integer_to_integer(builder, value, source, target)


def emit_bitcast(builder: ir.IRBuilder, value: ir.Value, source: DType, target: DType) -> ir.Value:
    """The storage bits of `value` read as `target`."""
    stored = to_storage(builder, value, source)
    return from_storage(builder, builder.bitcast(stored, widen(llvm_type(target), lanes_of(value))), target)


def round_register(builder: ir.IRBuilder, value: ir.Value, dtype: DType) -> ir.Value:
    """A float32 result rounded to a 16-bit type, still in a float32 register; other types as they are."""
    lanes = lanes_of(value)
    if dtype.name == "float16":
        return builder.fpext(builder.fptrunc(value, widen(llvm_type(dtype), lanes)), value.type)
    if dtype.name != "bfloat16":
        return value
    at_once = _lanes_at_once(builder.function)
    if at_once and lanes % at_once == 0:
        from backends.native.units.scalable import rounded_to_bfloat

        return rounded_to_bfloat(builder, value, at_once)
    bits = builder.bitcast(value, widen(I32, lanes))
    odd = builder.and_(builder.lshr(bits, constant(bits.type, 16)), constant(bits.type, 1))
    rounded = builder.add(builder.add(bits, constant(bits.type, 0x7FFF)), odd)
    # Adding could carry a NaN into infinity: keep its top bits and make it quiet.
    quiet = builder.or_(bits, constant(bits.type, 0x0040_0000))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.bitcast(builder.and_(chosen, constant(bits.type, 0xFFFF_0000)), value.type)


def _float_to_float(builder: ir.IRBuilder, value: ir.Value, source: DType, target: DType) -> ir.Value:
    lanes = lanes_of(value)
    if source.bits < target.bits:
        return builder.fpext(value, register_type(target, lanes)) if target.bits == 64 else value
    if source.bits == 64 and target.bits == 16:
        return round_register(builder, _round_to_odd(builder, value), target)
    if source.bits == 64:
        return builder.fptrunc(value, widen(FLOAT, lanes))
    return round_register(builder, value, target)


def _round_to_odd(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """float64 to float32 towards zero with inexactness in the last bit, so that a second rounding is the only one.

    Boldo and Melquiond, "When double rounding is odd", 2005.
    """
    lanes = lanes_of(value)
    nearest = builder.fptrunc(value, widen(FLOAT, lanes))
    back = builder.fpext(nearest, value.type)
    bits = builder.bitcast(nearest, widen(I32, lanes))
    magnitude = [intrinsic(builder, "fabs", v.type, [v], [v.type]) for v in (back, value)]
    too_big = builder.zext(builder.fcmp_ordered(">", *magnitude), bits.type)
    sticky = builder.or_(builder.sub(bits, too_big), constant(bits.type, 1))
    inexact = builder.fcmp_ordered("!=", back, value)
    return builder.bitcast(builder.select(inexact, sticky, bits), nearest.type)


def _float_to_integer(builder: ir.IRBuilder, value: ir.Value, target: DType) -> ir.Value:
    # Clamped, then converted: LLVM takes saturating conversions of vectors apart, lane by lane (40 times as slow).
    lanes, signed, kind = lanes_of(value), target.kind == "int", value.type
    least = -(1 << target.bits - 1) if signed else 0
    beyond = 1 << target.bits - signed
    largest = float(_largest_below(beyond, 24 if register_float_bits(kind) == 32 else 53))
    low, high = constant(kind, float(least)), constant(kind, largest)
    clamped = builder.select(builder.fcmp_ordered(">", value, low), value, low)
    clamped = builder.select(builder.fcmp_ordered("<", clamped, high), clamped, high)
    wide = widen(I32 if target.bits <= 16 else ir.IntType(target.bits), lanes)
    convert = builder.fptosi if signed or target.bits <= 16 else builder.fptoui
    whole = convert(clamped, wide)
    if largest != beyond - 1:
        over = builder.fcmp_ordered(">=", value, constant(kind, float(beyond)))
        whole = builder.select(over, constant(wide, beyond - 1), whole)
    if signed:
        whole = builder.select(builder.fcmp_unordered("uno", value, value), constant(wide, 0), whole)
    result = register_type(target, lanes)
    return whole if wide == result else builder.trunc(whole, result)


def register_float_bits(kind: ir.Type) -> int:
    """The width of a float register type, vector or scalar."""
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    return 32 if element == FLOAT else 64


def _largest_below(beyond: int, precision: int) -> int:
    # The largest integer below `beyond`, a power of two, with `precision` significant bits.
    return beyond - max(1, beyond >> precision)


def _integer_to_float(builder: ir.IRBuilder, value: ir.Value, source: DType, target: DType) -> ir.Value:
    register = register_type(target, lanes_of(value))
    convert = builder.sitofp if source.kind == "int" else builder.uitofp
    return round_register(builder, convert(value, register), target)


def _integer_to_integer(builder: ir.IRBuilder, value: ir.Value, source: DType, target: DType) -> ir.Value:
    register = register_type(target, lanes_of(value))
    have, want = (1 if source.kind == "bool" else max(source.bits, 8)), max(target.bits, 8)
    if want > have:
        return (builder.sext if source.kind == "int" else builder.zext)(value, register)
    return wrap_narrow(builder, builder.trunc(value, register) if want < have else value, target)
