"""Vectors as long as an Arm machine's, which llvmlite lacks: what the intrinsics of such registers take.

The engine keeps values in vectors of known length. In a function that says how long the machine's are
(`vscale_range`), putting one into a scalable vector and taking it out again is no instruction.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.units.dot import Bfloat, call
from backends.native.vectors import FLOAT, I1, I32, I64, concatenate, constant, intrinsic, lanes_of, split


class Scalable(ir.types.Type):
    """LLVM's vector of `count` elements for every 128 bits of a register. No subclass of llvmlite's vectors: their
    constants and shuffles count lanes."""

    def __init__(self, element: ir.Type, count: int) -> None:
        self.element, self.count = element, count

    @property
    def intrinsic_name(self) -> str:
        """As in names of overloaded intrinsics, for example nxv4f32."""
        return f"nxv{self.count}{self.element.intrinsic_name}"

    def _to_string(self) -> str:
        return f"<vscale x {self.count} x {self.element}>"

    def format_constant(self, value: object) -> str:
        """One value in every lane."""
        return f"splat ({self.element} {self.element.format_constant(value)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scalable) and (self.element, self.count) == (other.element, other.count)

    def __hash__(self) -> int:
        return hash((Scalable, self.element, self.count))


def hold_length(function: ir.Function, scale: int) -> None:
    """Say that the registers a function works on are `scale` times 128 bits long, unless it says so already. LLVM then
    keeps vectors of known length in them."""
    if not any(attribute.startswith("vscale_range") for attribute in function.attributes):
        set.add(function.attributes, f"vscale_range({scale},{scale})")  # llvmlite has a list of what it permits


def scalable(builder: ir.IRBuilder, value: ir.Value, kind: Scalable) -> ir.Value:
    """A vector that fills a register, as the machine's own type."""
    undefined = ir.Constant(kind, ir.Undefined)
    return intrinsic(builder, "vector.insert", kind, [undefined, value, I64(0)], [kind, value.type])


def fixed(builder: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """The first lanes of a scalable vector."""
    return intrinsic(builder, "vector.extract", kind, [value, I64(0)], [kind, value.type])


def rounded_to_bfloat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector of FP32, a multiple of the `lanes` of a register, rounded to nearest even bfloat16 and still FP32, by an
    instruction that keeps denormals and makes NaNs quiet."""
    parts = split(builder, value, lanes_of(value) // lanes)
    bits = concatenate(builder, [_bits_of_bfloat(builder, part) for part in parts])
    return builder.bitcast(builder.shl(bits, constant(bits.type, 16)), value.type)


def _bits_of_bfloat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    single, half = Scalable(FLOAT, 4), Scalable(Bfloat(), 8)
    operands = [ir.Constant(half, ir.Undefined), ir.Constant(Scalable(I1, 4), True), scalable(builder, value, single)]
    narrow = call(builder, "llvm.aarch64.sve.fcvt.bf16f32.v2", half, operands)
    return fixed(builder, builder.bitcast(narrow, Scalable(I32, 4)), ir.VectorType(I32, lanes_of(value)))
