"""Arm's products of small matrices: every 128 bits of a register of A hold two rows, of B two columns, of eight bytes
along K each, and of an accumulator the 2 x 2 words of their products. Two registers side by side have rows that fill
one; in registers longer than 128 bits all of A are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.units.base import Grid
from backends.native.units.dot import Bfloat, call
from backends.native.units.scalable import Scalable, fixed, scalable
from backends.native.units.vector import RegisterUnit
from backends.native.vectors import I8, I32, I64, constant, llvm_type
from compiler.dtypes import DType
from compiler.mathlib.exact import dot32_to_odd

SEGMENT = 16  # bytes
ALL = 31  # the pattern of a predicate that is true everywhere


def order(lanes: range | list[int]) -> ir.Constant:
    """Lanes for a shuffle."""
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


@dataclass(frozen=True)
class MatrixProductUnit(RegisterUnit):
    """Tiles of 2 x n, n words a register. `product` is the intrinsic's name. Of bytes it takes the unsigned first
    where signs differ: A and B then change places, and tiles are transposed. bfloat16 is added up with roundings of
    its own."""

    product: str = ""

    @property
    def mma_cycles(self) -> float:
        return 1.0

    @property
    def in_order(self) -> bool:
        return self.acc.is_integer

    @property
    def in_place(self) -> bool:
        return False

    @property
    def acc_type(self) -> ir.Type:
        return ir.VectorType(llvm_type(self.acc), self.m * self.n)

    @property
    def _swapped(self) -> bool:
        return self.a.kind == "int" and self.b.kind == "uint"

    @property
    def _register(self) -> ir.VectorType:
        return ir.VectorType(llvm_type(self.acc), self.n)

    @property
    def _cells(self) -> ir.VectorType:
        """A register as what rows of accumulators are dealt into tiles by: pairs of neighbours, or single words."""
        return ir.VectorType(I32, self.n) if self._swapped else ir.VectorType(I64, self.n // 2)

    @property
    def _operand(self) -> tuple[ir.Type, int]:
        """The elements of 128 bits of an operand."""
        return (Bfloat(), SEGMENT // 2) if self.a.is_float else (I8, SEGMENT)

    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> ir.Value:
        places = [builder.gep(pointer, [I64(i * row_stride)]) for i in (0, 1)]
        loaded = [builder.load(builder.bitcast(at, self._register.as_pointer()), align=self.acc.bytes) for at in places]
        rows = [builder.bitcast(row, self._cells) for row in loaded]
        count = self._cells.count
        dealt = order([cell for column in range(count) for cell in (column, count + column)])
        return builder.bitcast(builder.shuffle_vector(*rows, dealt), self.acc_type)

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> ir.Value:
        if 4 * self.n == SEGMENT:
            return self._loaded(builder, pointer)
        everywhere = Scalable(ir.IntType(1), SEGMENT)
        predicate = call(builder, "llvm.aarch64.sve.ptrue.nxv16i1", everywhere, [I32(ALL)])
        return call(builder, "llvm.aarch64.sve.ld1rq.nxv16i8", Scalable(I8, SEGMENT), [predicate, pointer])

    def load_b(
        self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0
    ) -> tuple[ir.Value, ir.Value]:
        return self._loaded(builder, pointer), self._loaded(builder, builder.gep(pointer, [I64(4 * self.n)]))

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: tuple[ir.Value, ir.Value]) -> ir.Value:
        tiles = []
        for half in (0, 1):
            tile = builder.shuffle_vector(acc, acc, order(range(half * self.n, (half + 1) * self.n)))
            tiles.append(self._product(builder, tile, *((b[half], a) if self._swapped else (a, b[half]))))
        return builder.shuffle_vector(*tiles, order(range(2 * self.n)))

    def ones(self, builder: ir.IRBuilder) -> ir.Value:
        return constant(ir.VectorType(I8, 4 * self.n), 1)

    def row(self, builder: ir.IRBuilder, acc: ir.Value, row: int) -> ir.Value:
        count = self._cells.count
        cells = builder.bitcast(acc, ir.VectorType(self._cells.element, 2 * count))
        taken = order(range(row, 2 * count, 2))
        return builder.bitcast(builder.shuffle_vector(cells, cells, taken), self._register)

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """bfloat16: two products are added up, their sum is added to acc, then the other two's."""
        if self.acc.is_integer:
            return super().emulate(acc, a, b)
        a, b = a.astype(np.float32), b.astype(np.float32)
        for k in range(0, self.k, 2):
            pairs = (a[:, k, None], b[k], a[:, k + 1, None], b[k + 1])
            acc = dot32_to_odd(*np.broadcast_arrays(*pairs, acc))
        return acc

    def _loaded(self, builder: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
        kind = ir.VectorType(I8, 4 * self.n)
        return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=self.b.bytes)

    def _product(self, builder: ir.IRBuilder, tile: ir.Value, first: ir.Value, second: ir.Value) -> ir.Value:
        element, count = self._operand
        if 4 * self.n == SEGMENT:
            operands = [builder.bitcast(x, ir.VectorType(element, count)) for x in (first, second)]
            return call(builder, self.product, self._register, [tile, *operands])
        return scalable_product(builder, self.product, tile, (first, second), Scalable(element, count))


def scalable_product(
    builder: ir.IRBuilder, product: str, acc: ir.Value, operands: tuple[ir.Value, ...], kind: Scalable
) -> ir.Value:
    """An intrinsic on registers of the machine's length: `acc` [n] and what it gives of known length, operands of any
    type that fills a register, taken as `kind`."""
    bits = Scalable(I8, SEGMENT)
    registers = []
    for operand in operands:
        if isinstance(operand.type, ir.VectorType):
            size = acc.type.count * SEGMENT // 4
            operand = scalable(builder, builder.bitcast(operand, ir.VectorType(I8, size)), bits)
        registers.append(operand if operand.type == kind else builder.bitcast(operand, kind))
    machine = Scalable(acc.type.element, SEGMENT // 4)
    return fixed(builder, call(builder, product, machine, [scalable(builder, acc, machine), *registers]), acc.type)


def matrix_unit(
    isa: str, requires: tuple[str, ...], vector: int, a: DType, b: DType, acc: DType, product: str
) -> MatrixProductUnit:
    """The unit on registers of `vector` bytes. 24 accumulating registers, six of B and two of A."""
    grids = (Grid(4, 3), Grid(4, 2), Grid(4, 1))
    return MatrixProductUnit(isa, "aarch64", requires, a, b, acc, 2, vector // 4, 8 // a.bytes, grids, 0, product)
