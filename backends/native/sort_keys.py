"""Keys to sort by: unsigned integers that order as elements do, from the front of the result; equal elements have equal
keys."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.vectors import constant
from compiler.dtypes import DType


@dataclass(frozen=True)
class Keys:
    """Keys of elements of one type, and how to make them from an element's bits."""

    dtype: DType
    descending: bool

    @property
    def bits(self) -> int:
        """Bits of a key, those of an element in memory."""
        return self.dtype.bytes * 8

    @property
    def type(self) -> ir.IntType:
        """The type of a key."""
        return ir.IntType(self.bits)

    def of(self, builder: ir.IRBuilder, code: ir.Value) -> ir.Value:
        """The key of an element in memory with these bits, or of a vector of them."""
        top, ones, zero, infinity, signless = (
            constant(code.type, value)
            for value in (1 << (self.bits - 1), (1 << self.bits) - 1, 0, self._infinity, (1 << (self.bits - 1)) - 1)
        )
        if self.dtype.is_float:
            magnitude = builder.and_(code, signless)
            negative = builder.ashr(code, constant(code.type, self.bits - 1))
            key = builder.xor(code, builder.or_(negative, top))  # all bits of a negative number, else the sign
            key = builder.select(builder.icmp_unsigned("==", magnitude, zero), top, key)
            key = builder.select(builder.icmp_unsigned(">", magnitude, infinity), ones, key)
        else:
            key = builder.xor(code, top) if self.dtype.kind == "int" else code
        return builder.xor(key, ones) if self.descending else key

    @property
    def _infinity(self) -> int:
        """The bits of positive infinity: all ones in the exponent. 0 for what is no float."""
        fraction = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}.get(self.dtype.name)
        return 0 if fraction is None else (1 << (self.bits - 1)) - (1 << fraction)
