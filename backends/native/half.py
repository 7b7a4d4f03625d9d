"""Conversions of half floats as functions, for machines without instructions for them.

LLVM calls routines of a compiler's runtime library there, which nobody has loaded: so modules bring their own. They
round to nearest even, as the instructions do, and make NaNs quiet.
"""

from __future__ import annotations

import re
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir

from backends.native.target import Target
from backends.native.vectors import DOUBLE, FLOAT, HALF, I16, I32, I64

_INSTRUCTIONS = {"x86_64": "f16c"}  # the feature; other architectures have them always
_SIGN, _INFINITY, _QUIET = 0x8000, 0x7C00, 0x0200
_BIAS, _MANTISSA = 15, 10


def add_conversions(module: llvm.ModuleRef, target: Target) -> None:
    """Define what `module`, ready for code generation, will call to convert half floats on `target`."""
    feature = _INSTRUCTIONS.get(target.architecture, "")
    if not feature or target.has(feature) or not re.search(r"\bhalf\b", str(module)):
        return
    definitions = llvm.parse_assembly(_definitions())
    definitions.triple, definitions.data_layout = module.triple, module.data_layout
    names = [function.name for function in definitions.functions]
    module.link_in(definitions)
    for name in names:  # only now: the linker leaves out private functions that nothing calls yet
        module.get_function(name).linkage = llvm.Linkage.internal


@cache
def _definitions() -> str:
    module = ir.Module("half")
    _define_extension(module)
    _define_truncation(module, "__truncsfhf2", FLOAT, I32, 127, 23)
    _define_truncation(module, "__truncdfhf2", DOUBLE, I64, 1023, 52)
    return str(module)


def _function(module: ir.Module, name: str, result: ir.Type, operand: ir.Type) -> tuple[ir.IRBuilder, ir.Value]:
    function = ir.Function(module, ir.FunctionType(result, [operand]), name)
    function.attributes.add("nounwind")
    return ir.IRBuilder(function.append_basic_block("entry")), function.args[0]


def _define_extension(module: ir.Module) -> None:
    """float __extendhfsf2(half)"""
    builder, value = _function(module, "__extendhfsf2", FLOAT, HALF)
    bits = builder.zext(builder.bitcast(value, I16), I32)
    sign = builder.shl(builder.and_(bits, I32(_SIGN)), I32(16))
    size = builder.and_(bits, I32(_SIGN - 1))
    wide = builder.shl(size, I32(23 - _MANTISSA))
    normal = builder.add(wide, I32(127 - _BIAS << 23))
    special = builder.or_(wide, I32(0xFF << 23))
    special = builder.select(_above(builder, size, _INFINITY), builder.or_(special, I32(1 << 22)), special)
    # A denormal is a whole number of the least of them; the product is exact and a normal float.
    denormal = builder.fmul(builder.sitofp(size, FLOAT), FLOAT(2.0 ** (1 - _BIAS - _MANTISSA)))
    result = builder.select(_above(builder, size, _INFINITY - 1), special, normal)
    below = builder.icmp_unsigned("<", size, I32(1 << _MANTISSA))
    result = builder.select(below, builder.bitcast(denormal, I32), result)
    builder.ret(builder.bitcast(builder.or_(result, sign), FLOAT))


def _define_truncation(
    module: ir.Module, name: str, source: ir.Type, word: ir.IntType, bias: int, mantissa: int
) -> None:
    """half name(source), a float whose bits fill a `word`."""
    builder, value = _function(module, name, HALF, source)
    bits = builder.bitcast(value, word)
    top, one, excess = word.width - 1, word(1), mantissa - _MANTISSA
    sign = builder.shl(builder.lshr(bits, word(top)), word(15))
    size = builder.and_(bits, word((1 << top) - 1))
    infinite = ((1 << top - mantissa) - 1) << mantissa

    normal = _rounded(builder, builder.sub(size, word(bias - _BIAS << mantissa)), word(excess))
    # Below the normal numbers the shift grows with the exponent's distance; from some on, nothing is left.
    whole = builder.or_(builder.and_(size, word((1 << mantissa) - 1)), word(1 << mantissa))
    shift = builder.sub(word(bias - _BIAS + 1 + excess), builder.lshr(size, word(mantissa)))
    most = word(mantissa + 2)
    shift = builder.select(builder.icmp_signed("<", shift, most), shift, most)
    shift = builder.select(builder.icmp_signed(">", shift, one), shift, one)  # defined where not asked for
    denormal = _rounded(builder, whole, shift)
    nan = builder.or_(builder.lshr(size, word(excess)), word(_INFINITY | _QUIET))
    nan = builder.and_(nan, word(_SIGN - 1))

    result = builder.select(_above(builder, size, (bias - _BIAS + 1 << mantissa) - 1), normal, denormal)
    result = builder.select(_above(builder, size, (bias + _BIAS + 1 << mantissa) - 1), word(_INFINITY), result)
    result = builder.select(_above(builder, size, infinite), nan, result)
    builder.ret(builder.bitcast(builder.trunc(builder.or_(result, sign), I16), HALF))


def _rounded(builder: ir.IRBuilder, value: ir.Value, shift: ir.Value) -> ir.Value:
    """`value` without its last `shift` (at least 1) bits, rounded to nearest even."""
    one = value.type(1)
    odd = builder.and_(builder.lshr(value, shift), one)
    half = builder.shl(one, builder.sub(shift, one))
    return builder.lshr(builder.add(builder.add(value, builder.sub(half, one)), odd), shift)


def _above(builder: ir.IRBuilder, value: ir.Value, limit: int) -> ir.Value:
    return builder.icmp_unsigned(">", value, value.type(limit))
