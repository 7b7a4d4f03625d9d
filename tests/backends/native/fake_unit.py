"""A matrix unit no machine has: 3 x 5 x 2, with odd panels, run as vectors of 15 lanes. It drives every path that
tile units need (padded rows, deep panels, packed A) on any machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.units import Grid, MatrixUnit
from backends.native.vectors import I32, constant, intrinsic, llvm_type
from compiler import dtypes
from compiler.mathlib.exact import fma32


@dataclass(frozen=True)
class FakeUnit(MatrixUnit):
    """acc[3, 5] += a[3, 2] @ b[2, 5], one chain an element over ascending k."""

    @property
    def in_place(self) -> bool:
        return False

    @property
    def acc_type(self) -> ir.Type:
        return ir.VectorType(llvm_type(self.acc), self.m * self.n)

    def enter(self, builder: ir.IRBuilder) -> None:
        """Nothing to switch on."""

    def leave(self, builder: ir.IRBuilder) -> None:
        """Nor off."""

    def zero(self, builder: ir.IRBuilder, number: int) -> ir.Value:
        return constant(self.acc_type, 0.0)

    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> ir.Value:
        cells = [(i * row_stride + j * 4) for i in range(self.m) for j in range(self.n)]
        return self._collect(builder, [self._load(builder, pointer, ir.IntType(64)(offset)) for offset in cells])

    def load_a(
        self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ...]:
        found = []
        for k in range(self.k):
            rows = []
            for i in range(self.m):
                offset = builder.add(builder.mul(row_stride, row_stride.type(i)), row_stride.type(4 * k))
                rows.append(self._load(builder, pointer, offset))
            found.append(self._collect(builder, [rows[i] for i in range(self.m) for _ in range(self.n)]))
        return tuple(found)

    def load_b(
        self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ...]:
        found = []
        for k in range(self.k):
            columns = [self._load(builder, pointer, group_stride.type(4 * (j * self.k + k))) for j in range(self.n)]
            found.append(self._collect(builder, columns * self.m))
        return tuple(found)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: tuple[ir.Value, ...], b: tuple[ir.Value, ...]) -> ir.Value:
        for x, y in zip(a, b, strict=True):
            acc = intrinsic(builder, "fma", self.acc_type, [x, y, acc], [self.acc_type])
        return acc

    def row(self, builder: ir.IRBuilder, acc: ir.Value, row: int) -> ir.Value:
        lanes = [I32(row * self.n + j) for j in range(self.n)]
        return builder.shuffle_vector(acc, acc, ir.Constant(ir.VectorType(I32, self.n), lanes))

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        for k in range(self.k):
            acc = fma32(*np.broadcast_arrays(a[:, k : k + 1], b[k : k + 1], acc))
        return acc

    def _load(self, builder: ir.IRBuilder, pointer: ir.Value, offset: ir.Value) -> ir.Value:
        address = builder.gep(pointer, [offset])
        return builder.load(builder.bitcast(address, llvm_type(self.acc).as_pointer()), align=4)

    def _collect(self, builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        vector = ir.Constant(self.acc_type, ir.Undefined)
        for lane, value in enumerate(values):
            vector = builder.insert_element(vector, value, I32(lane))
        return vector


FAKE = FakeUnit(
    "fake", "", (), dtypes.float32, dtypes.float32, dtypes.float32, 3, 5, 2, (Grid(2, 2), Grid(2, 1))
)  # fmt: skip
