"""Vector units for FP32 and FP64: one mma is a fused multiply-add of a broadcast A element and a vector of B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.units.base import Grid, MatrixUnit
from backends.native.vectors import constant, intrinsic, llvm_type, splat
from compiler import dtypes
from compiler.mathlib.exact import fma32, fma64


@dataclass(frozen=True)
class VectorUnit(MatrixUnit):
    """acc[n] = fma(a, b[n], acc[n]): m and k are 1, n the lanes of a register."""

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
        return constant(self.acc_type, 0.0)

    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> ir.Value:
        return builder.load(builder.bitcast(pointer, self.acc_type.as_pointer()), align=self.acc.bytes)

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value) -> ir.Value:
        # A scalar load splatted: LLVM makes it an explicit broadcast, which unlike an embedded one serves a whole row.
        element = builder.load(builder.bitcast(pointer, llvm_type(self.a).as_pointer()), align=self.a.bytes)
        return splat(builder, element, self.n)

    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value) -> ir.Value:
        return builder.load(builder.bitcast(pointer, self.acc_type.as_pointer()), align=self.b.bytes)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        return intrinsic(builder, "fma", self.acc_type, [a, b, acc], [self.acc_type])

    def row(self, builder: ir.IRBuilder, acc: ir.Value, row: int) -> ir.Value:
        return acc

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (fma32 if self.acc == dtypes.float32 else fma64)(*np.broadcast_arrays(a, b, acc))


def vector_units(
    isa: str, architecture: str, requires: tuple[str, ...], vector: int, grids: tuple[Grid, ...]
) -> tuple[MatrixUnit, ...]:
    """The FP32 and FP64 units of an instruction set with registers of `vector` bytes."""
    return tuple(
        VectorUnit(isa, architecture, requires, dtype, dtype, dtype, 1, vector // dtype.bytes, 1, grids)
        for dtype in (dtypes.float32, dtypes.float64)
    )
