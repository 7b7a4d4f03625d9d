"""Arm's registers whose length instructions do not say, where they are longer than NEON's: 32 of them.

The engine knows the length, which is part of a target, and so of a kernel; LLVM keeps its vectors in these registers,
with predicates for tails (see scalable). An element of A is spread over a register by the instruction that loads it, so
a unit of depth 1 is that of any machine; pairs and fours are as short. By count of instructions, for want of a machine
to measure on: 24 multiply-adds a k-step need 11 loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llvmlite import ir

from backends.native.units.base import Grid, MatrixUnit
from backends.native.units.dot import Bfloat, ByteDotUnit
from backends.native.units.matrix import SEGMENT, matrix_unit, scalable_product
from backends.native.units.scalable import Scalable
from backends.native.units.vector import BYTES, PairUnit, vector_units
from backends.native.vectors import I8, I32, splat
from compiler import dtypes
from compiler.dtypes import DType

GRIDS = (Grid(8, 3), Grid(8, 2), Grid(8, 1))
PAIR_GRIDS = GRIDS[1:]  # where a register of pairs of B becomes two
LENGTHS = (32, 64, 128, 256)  # in bytes; shorter ones are NEON's, and LLVM wants powers of two


@dataclass(frozen=True)
class FourthsUnit(ByteDotUnit):
    """Fours of bytes of one sign, `product` an instruction for it: A of the other sign is moved to that of B."""

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        return scalable_product(builder, self.product, acc, (b, a), Scalable(I8, SEGMENT))


@dataclass(frozen=True)
class HalvesUnit(PairUnit):
    """bfloat16 by multiply-adds into FP32 that take the second, or the first, of every pair of both registers."""

    @property
    def left(self) -> DType:
        return self.a

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> Any:
        pair = builder.load(builder.bitcast(pointer, I32.as_pointer()), align=self.left.bytes)
        return splat(builder, pair, self.n)

    def held_b(self, builder: ir.IRBuilder, stored: ir.Value) -> Any:
        return stored

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        pairs = Scalable(Bfloat(), SEGMENT // 2)
        for name in ("bfmlalt", "bfmlalb"):
            acc = scalable_product(builder, f"llvm.aarch64.sve.{name}", acc, (b, a), pairs)
        return acc


def _matrix(vector: int, a: DType, b: DType) -> MatrixUnit:
    name = "usmmla" if a != b else "smmla" if a == dtypes.int8 else "ummla"
    product = f"llvm.aarch64.sve.{name}.nxv4i32"
    return matrix_unit("sve_i8mm", ("sve", "i8mm"), vector, a, b, dtypes.int32, product)


def _dot(vector: int, a: DType, b: DType) -> MatrixUnit:
    moved = 0 if a == b else -128 if a == dtypes.int8 else 128
    product = f"llvm.aarch64.sve.{'sdot' if b == dtypes.int8 else 'udot'}.nxv4i32"
    return FourthsUnit("sve", "aarch64", ("sve",), a, b, dtypes.int32, 1, vector // 4, 4, GRIDS, moved, product)


@lru_cache(maxsize=8)
def units(vector: int) -> tuple[MatrixUnit, ...]:
    """The units for registers of `vector` bytes, best first; none where that is no length beyond NEON's."""
    if vector not in LENGTHS:
        return ()
    half, single = dtypes.bfloat16, dtypes.float32
    plain = [
        unit for unit in vector_units("sve", "aarch64", ("sve",), vector, GRIDS) if unit.a.bytes > 1 and unit.k == 1
    ]
    pairs = [unit for unit in vector_units("sve", "aarch64", ("sve",), vector, PAIR_GRIDS) if unit.k == 2]
    return (
        *(_matrix(vector, a, b) for a in BYTES for b in BYTES),
        matrix_unit("sve_bfmmla", ("sve", "bf16"), vector, half, half, single, "llvm.aarch64.sve.bfmmla"),
        HalvesUnit("sve_bf16", "aarch64", ("sve", "bf16"), half, half, single, 1, vector // 4, 2, GRIDS),
        *(_dot(vector, a, b) for a in BYTES for b in BYTES),
        *plain,
        *pairs,
    )
