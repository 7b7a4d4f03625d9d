"""Vector units deeper than 1: every 32-bit lane adds up the products of a few neighbours along K.

A register of A repeats one group of k neighbours of a row, a register of B holds n such groups of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from backends.native.units.base import Grid
from backends.native.units.vector import BYTES, RegisterUnit
from backends.native.vectors import I16, I32, constant, splat
from compiler import dtypes
from compiler.dtypes import DType
from compiler.mathlib.exact import flushed, fma32


class Bfloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite lacks, as the element of the vectors an intrinsic takes."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bfloat)

    def __hash__(self) -> int:
        return hash(Bfloat)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, operands: list[ir.Value]) -> ir.Value:
    """Call a machine's intrinsic of that full name."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [o.type for o in operands]), name)
    return builder.call(function, operands)


@dataclass(frozen=True)
class DotUnit(RegisterUnit):
    """`product` is the intrinsic's name."""

    product: str = ""

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> ir.Value:
        group = builder.load(builder.bitcast(pointer, I32.as_pointer()), align=self.left.bytes)
        return splat(builder, group, self.n)

    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0) -> ir.Value:
        kind = ir.VectorType(I32, self.n)
        return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=self.b.bytes)

    def held_b(self, builder: ir.IRBuilder, stored: ir.Value) -> ir.Value:
        return builder.bitcast(stored, ir.VectorType(I32, self.n))

    def ones(self, builder: ir.IRBuilder) -> ir.Value:
        kind = ir.VectorType(ir.IntType(8 * self.left.bytes), self.n * self.k)
        return builder.bitcast(constant(kind, 1), ir.VectorType(I32, self.n))


@dataclass(frozen=True)
class BfloatDotUnit(DotUnit):
    """Pairs of bfloat16: two chained multiply-adds, the second of a pair first; denormals are taken and given as 0.
    `narrowing` is the intrinsic that rounds two registers of FP32 to one, flushing denormals, which mma does anyway."""

    narrowing: str = ""

    def stored_b(self, builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
        low, high = parts
        pairs = call(builder, self.narrowing, ir.VectorType(Bfloat(), 2 * self.n), [high, low])
        return builder.bitcast(pairs, ir.VectorType(I16, 2 * self.n))

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        pairs = ir.VectorType(Bfloat(), 2 * self.n)
        return call(builder, self.product, self.acc_type, [acc, *(builder.bitcast(x, pairs) for x in (a, b))])

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        acc, a, b = (flushed(x.astype(np.float32)) for x in (acc, a, b))
        for k in (1, 0):
            acc = flushed(fma32(*np.broadcast_arrays(a[:, k : k + 1], b[k : k + 1], acc)))
        return acc


@dataclass(frozen=True)
class ByteDotUnit(DotUnit):
    """Fours of bytes, one unsigned, one signed, added up in 32 bits without saturation. Where both operands have the
    same sign A is moved into the other: by 128, which the compensation takes back. Moved in scratch: an exclusive or
    in load_a is one instruction of the same length, and yet took 4 to 10 percent of the time (Zen 4)."""

    @property
    def left(self) -> DType:
        if not self.compensation:
            return self.a
        return dtypes.uint8 if self.a == dtypes.int8 else dtypes.int8

    def converted(self, builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
        return builder.xor(value, constant(value.type, 0x80)) if self.compensation else value

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        fours = ir.VectorType(ir.IntType(8), 4 * self.n)
        operands = [builder.bitcast(x, fours) for x in ((b, a) if self.b.kind == "uint" else (a, b))]
        return call(builder, self.product, self.acc_type, [acc, *operands])


@dataclass(frozen=True)
class WordDotUnit(DotUnit):
    """Bytes as pairs of 16-bit integers, whose products and their sum are exact: A widened ahead, B as it is read."""

    @property
    def left(self) -> DType:
        return dtypes.int16

    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0) -> ir.Value:
        kind = ir.VectorType(ir.IntType(8), 2 * self.n)
        stored = builder.load(builder.bitcast(pointer, kind.as_pointer()), align=self.b.bytes)
        widen = builder.zext if self.b.kind == "uint" else builder.sext
        return widen(stored, ir.VectorType(ir.IntType(16), 2 * self.n))

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        pairs = builder.bitcast(a, ir.VectorType(ir.IntType(16), 2 * self.n))
        return builder.add(acc, call(builder, self.product, self.acc_type, [pairs, b]))


def bfloat_dot_unit(
    isa: str, requires: tuple[str, ...], vector: int, grids: tuple[Grid, ...], product: str, narrowing: str
) -> BfloatDotUnit:
    """The unit of an x86 instruction for pairs of bfloat16, and of one that rounds to them."""
    half, single = dtypes.bfloat16, dtypes.float32
    return BfloatDotUnit(isa, "x86_64", requires, half, half, single, 1, vector // 4, 2, grids, 0, product, narrowing)


def byte_dot_units(
    isa: str, requires: tuple[str, ...], vector: int, grids: tuple[Grid, ...], product: str
) -> tuple[ByteDotUnit, ...]:
    """The units of an x86 instruction for fours of bytes, unsigned with signed, for all four pairs of signs."""
    moved = {("int", "int"): -128, ("uint", "uint"): 128}
    return tuple(
        ByteDotUnit(
            isa,
            "x86_64",
            requires,
            a,
            b,
            dtypes.int32,
            1,
            vector // 4,
            4,
            grids,
            moved.get((a.kind, b.kind), 0),
            product,
        )
        for a in BYTES
        for b in BYTES
    )


def word_dot_units(
    isa: str, requires: tuple[str, ...], vector: int, grids: tuple[Grid, ...], product: str
) -> tuple[WordDotUnit, ...]:
    """The units of an x86 instruction for pairs of signed 16-bit integers, for all four pairs of signs of bytes."""
    return tuple(
        WordDotUnit(isa, "x86_64", requires, a, b, dtypes.int32, 1, vector // 4, 2, grids, 0, product)
        for a in BYTES
        for b in BYTES
    )
