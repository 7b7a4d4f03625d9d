"""Vector units of depth 1: one mma is a multiply-add of a broadcast A element and a vector of B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from backends.native.conversions import emit_cast
from backends.native.units.base import Grid, MatrixUnit
from backends.native.vectors import constant, from_storage, intrinsic, llvm_type, splat
from compiler import dtypes
from compiler.dtypes import DType
from compiler.mathlib.exact import fma32, fma64

INTEGERS = (dtypes.int32, dtypes.int64, dtypes.uint32, dtypes.uint64)
BYTES = (dtypes.int8, dtypes.uint8)


@dataclass(frozen=True)
class RegisterUnit(MatrixUnit):
    """What units with accumulators in vector registers share: m is 1, n the lanes of a register."""

    @property
    def in_place(self) -> bool:
        return True

    @property
    def acc_type(self) -> ir.Type:
        return ir.VectorType(llvm_type(self.acc), self.n)

    def enter(self, builder: ir.IRBuilder) -> None:
        """Vector registers need no switching on."""

    def leave(self, builder: ir.IRBuilder) -> None:
        """Nor off."""

    def zero(self, builder: ir.IRBuilder, number: int) -> ir.Value:
        return constant(self.acc_type, 0)

    def start(self, builder: ir.IRBuilder, number: int, sums: ir.Value) -> ir.Value:
        return builder.mul(self.resume(builder, number, sums, 0), constant(self.acc_type, self.compensation))

    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> ir.Value:
        return builder.load(builder.bitcast(pointer, self.acc_type.as_pointer()), align=self.acc.bytes)

    def row(self, builder: ir.IRBuilder, acc: ir.Value, row: int) -> ir.Value:
        return acc

    def ones(self, builder: ir.IRBuilder) -> ir.Value:
        return constant(self.acc_type, 1)

    def multiply_add(self, builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        """a * b + acc in the accumulator's type, rounded once."""
        if self.acc.is_float:
            return intrinsic(builder, "fma", self.acc_type, [a, b, acc], [self.acc_type])
        return builder.add(builder.mul(a, b), acc)

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        kind = self.acc.numpy
        if self.acc.is_integer:
            return acc + np.matmul(a.astype(kind), b.astype(kind))
        for k in range(self.k):
            operands = np.broadcast_arrays(a[:, k : k + 1].astype(kind), b[k : k + 1].astype(kind), acc)
            acc = (fma32 if self.acc.bits == 32 else fma64)(*operands)
        return acc


@dataclass(frozen=True)
class VectorUnit(RegisterUnit):
    """acc[n] = a * b[n] + acc[n]. Operands narrower than the accumulator are widened: B as it is read, A ahead."""

    @property
    def left(self) -> DType:
        return self.acc

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> ir.Value:
        # A scalar load splatted: LLVM makes it an explicit broadcast, which unlike an embedded one serves a whole row.
        element = builder.load(builder.bitcast(pointer, llvm_type(self.left).as_pointer()), align=self.left.bytes)
        return splat(builder, element, self.n)

    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0) -> ir.Value:
        kind = ir.VectorType(llvm_type(self.b), self.n)
        return self.held_b(builder, builder.load(builder.bitcast(pointer, kind.as_pointer()), align=self.b.bytes))

    def held_b(self, builder: ir.IRBuilder, stored: ir.Value) -> ir.Value:
        value = from_storage(builder, stored, self.b)
        return value if self.b == self.acc else emit_cast(builder, value, self.b, self.acc)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        return self.multiply_add(builder, acc, a, b)


@dataclass(frozen=True)
class PairUnit(RegisterUnit):
    """bfloat16 by FP32 arithmetic, exactly: products of pairs along K, the second of a pair first, as instructions for
    bfloat16 take them (but that those flush denormals). A is widened ahead, a B register holds n pairs."""

    @property
    def left(self) -> DType:
        return dtypes.float32

    def load_a(
        self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ir.Value]:
        elements = builder.bitcast(pointer, llvm_type(self.left).as_pointer())
        second = builder.gep(elements, [ir.IntType(64)(1)])
        loaded = [builder.load(at, align=self.left.bytes) for at in (second, elements)]
        return splat(builder, loaded[0], self.n), splat(builder, loaded[1], self.n)

    def load_b(
        self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ir.Value]:
        kind = ir.VectorType(ir.IntType(32), self.n)
        return self.held_b(builder, builder.load(builder.bitcast(pointer, kind.as_pointer()), align=self.b.bytes))

    def held_b(self, builder: ir.IRBuilder, stored: ir.Value) -> tuple[ir.Value, ir.Value]:
        kind = ir.VectorType(ir.IntType(32), self.n)
        pairs = builder.bitcast(stored, kind)
        high = builder.and_(pairs, constant(kind, 0xFFFF_0000))
        low = builder.shl(pairs, constant(kind, 16))
        return builder.bitcast(high, self.acc_type), builder.bitcast(low, self.acc_type)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        for x, y in zip(a, b, strict=True):
            acc = self.multiply_add(builder, acc, x, y)
        return acc

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return super().emulate(acc, a[:, ::-1], b[::-1])


def vector_units(
    isa: str, architecture: str, requires: tuple[str, ...], vector: int, grids: tuple[Grid, ...]
) -> tuple[MatrixUnit, ...]:
    """The units of depth 1, and for bfloat16 2, of an instruction set with registers of `vector` bytes: FP32 and FP64,
    16-bit floats summed in FP32, integers, and bytes summed in 32 bits."""

    def unit(kind: type[RegisterUnit], a: DType, b: DType, acc: DType, k: int = 1) -> MatrixUnit:
        return kind(isa, architecture, requires, a, b, acc, 1, vector // acc.bytes, k, grids)

    same = (dtypes.float32, dtypes.float64, *INTEGERS)
    return (
        *(unit(VectorUnit, dtype, dtype, dtype) for dtype in same),
        unit(VectorUnit, dtypes.float16, dtypes.float16, dtypes.float32),
        unit(PairUnit, dtypes.bfloat16, dtypes.bfloat16, dtypes.float32, 2),
        *(unit(VectorUnit, a, b, dtypes.int32) for a in BYTES for b in BYTES),
    )
