"""Arm's vector registers, 32 of 16 bytes, and what later versions multiply in them: narrow floats and bytes.

A row's element is not spread over a register: instructions take one lane of it. 8 x 3 accumulators leave room for
three registers of B and two of A; fewer would not cover the latency of four pipelines. By count of instructions, for
want of a machine to measure on: 24 multiply-adds a k-step need 11 loads (4 x 2 accumulators: 8 need 6).
Instructions for bfloat16 that sum two products round otherwise (bfdot, bfmmla). bfmmla, on tiles, does four times the
work of the fused multiply-adds of one of a pair, which have the bits of every other machine, of denormals too: these
take over where rows are few and where the order of sums has to be the common one.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.units.base import Grid, MatrixUnit
from backends.native.units.dot import Bfloat, ByteDotUnit, call
from backends.native.units.matrix import matrix_unit, order
from backends.native.units.vector import BYTES, PairUnit, RegisterUnit, VectorUnit
from backends.native.vectors import DOUBLE, FLOAT, I8, I32, intrinsic, llvm_type, splat
from compiler import dtypes
from compiler.dtypes import DType

VECTOR = 16
GRIDS = (Grid(8, 3), Grid(8, 2), Grid(8, 1))
PAIR_GRIDS = GRIDS[1:]  # a register of pairs of B becomes two, and lanes of 16 bits are of the first 16 registers
_BYTES = ir.VectorType(I8, VECTOR)
_WORDS = ir.VectorType(I32, 4)


def _lane(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    """A float alone in a register, for products by its lane. The fence is no instruction: it keeps LLVM from loading
    with a broadcast, which by Arm's optimisation guides takes a slot of a multiplier's pipeline too."""
    element = builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)
    return intrinsic(builder, "arithmetic.fence", kind, [element], [kind])


def _group(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.VectorType) -> ir.Value:
    """Four bytes in the first lanes of a register."""
    word = _lane(builder, pointer, FLOAT, 1)
    register = ir.Constant(ir.VectorType(FLOAT, VECTOR // 4), ir.Undefined)
    return builder.bitcast(builder.insert_element(register, word, I32(0)), kind)


def _repeated(builder: ir.IRBuilder, vector: ir.Value, lane: int, lanes: int) -> ir.Value:
    """One lane of a vector in `lanes`."""
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order([lane] * lanes))


@dataclass(frozen=True)
class LaneUnit(VectorUnit):
    """acc[n] = a * b[n] + acc[n] with a in a lane."""

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> ir.Value:
        if not self.left.is_float:
            return super().load_a(builder, pointer, row_stride, number)
        return splat(builder, _lane(builder, pointer, llvm_type(self.left), self.left.bytes), self.n)


@dataclass(frozen=True)
class LanePairUnit(PairUnit):
    """bfloat16 by FP32 arithmetic with a pair of A in two lanes."""

    def load_a(
        self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ir.Value]:
        pair = builder.bitcast(_lane(builder, pointer, DOUBLE, self.left.bytes), ir.VectorType(FLOAT, 2))
        return _repeated(builder, pair, 1, self.n), _repeated(builder, pair, 0, self.n)


@dataclass(frozen=True)
class LongPairUnit(PairUnit):
    """bfloat16 by multiply-adds into FP32 that take the second, or the first, of every pair of a register."""

    @property
    def left(self) -> DType:
        return self.a

    def load_a(
        self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ir.Value]:
        pair = _group(builder, pointer, ir.VectorType(Bfloat(), 2 * self.n))
        return _repeated(builder, pair, 1, 2 * self.n), _repeated(builder, pair, 0, 2 * self.n)

    def held_b(self, builder: ir.IRBuilder, stored: ir.Value) -> ir.Value:
        return builder.bitcast(stored, ir.VectorType(Bfloat(), 2 * self.n))

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: tuple[ir.Value, ir.Value], b: ir.Value) -> ir.Value:
        for half, name in zip(a, ("bfmlalt", "bfmlalb"), strict=True):
            acc = call(builder, f"llvm.aarch64.neon.{name}", self.acc_type, [acc, b, half])
        return acc


@dataclass(frozen=True)
class LaneDotUnit(ByteDotUnit):
    """Fours of bytes of one sign, `product` an instruction for it: A of the other sign is moved to that of B."""

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> ir.Value:
        return _repeated(builder, _group(builder, pointer, _WORDS), 0, self.n)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        operands = [builder.bitcast(x, _BYTES) for x in (b, a)]
        return call(builder, self.product, self.acc_type, [acc, *operands])


def _vector(kind: type[RegisterUnit], a: DType, b: DType, acc: DType, k: int, grids: tuple[Grid, ...]) -> MatrixUnit:
    return kind("neon", "aarch64", ("neon",), a, b, acc, 1, VECTOR // acc.bytes, k, grids)


def _dot(a: DType, b: DType) -> MatrixUnit:
    moved = 0 if a == b else -128 if a == dtypes.int8 else 128
    product = f"llvm.aarch64.neon.{'sdot' if b == dtypes.int8 else 'udot'}.v4i32.v16i8"
    return LaneDotUnit("dotprod", "aarch64", ("dotprod",), a, b, dtypes.int32, 1, 4, 4, GRIDS, moved, product)


def _matrix(a: DType, b: DType) -> MatrixUnit:
    name = "usmmla" if a != b else "smmla" if a == dtypes.int8 else "ummla"
    product = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
    return matrix_unit("i8mm", ("i8mm",), VECTOR, a, b, dtypes.int32, product)


HALF, SINGLE = dtypes.bfloat16, dtypes.float32
UNITS = (
    *(_matrix(a, b) for a in BYTES for b in BYTES),
    *(_dot(a, b) for a in BYTES for b in BYTES),
    matrix_unit("bfmmla", ("bf16",), VECTOR, HALF, HALF, SINGLE, "llvm.aarch64.neon.bfmmla"),
    LongPairUnit("bf16", "aarch64", ("bf16",), HALF, HALF, SINGLE, 1, 4, 2, PAIR_GRIDS),
    *(_vector(LaneUnit, kind, kind, kind, 1, GRIDS) for kind in (SINGLE, dtypes.float64, dtypes.int32, dtypes.uint32)),
    _vector(LaneUnit, dtypes.float16, dtypes.float16, SINGLE, 1, GRIDS),
    _vector(LanePairUnit, HALF, HALF, SINGLE, 2, PAIR_GRIDS),
    *(_vector(LaneUnit, a, b, dtypes.int32, 1, GRIDS) for a in BYTES for b in BYTES),
)
