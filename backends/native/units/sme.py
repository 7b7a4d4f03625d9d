"""SME: outer products of two vectors of streaming mode into a square tile of the array ZA.

Arm, "Arm Architecture Reference Manual Supplement, the Scalable Matrix Extension". A tile has as many rows as a vector
has accumulators: with vectors of 64 bytes 16 x 16 of 32 bits, four of them, or 8 x 8 of 64 bits, eight. One product
adds, to every element, the product of one element of A and one of B, of 16-bit floats two and of bytes four neighbours
along K.

Streaming mode is a mode of functions: the engine puts what works on tiles into one of its own for every block of rows,
which enters and leaves, and packs outside. In it vectors of known length lie in registers of streaming mode, so
epilogues are the same code as everywhere; their length is part of the code, as it is of the panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from llvmlite import ir

from backends.native import by_lane
from backends.native.conversions import rounds_to_bfloat
from backends.native.loops import counted_loop
from backends.native.target import Target
from backends.native.units.base import Grid, MatrixUnit
from backends.native.units.dot import Bfloat, call
from backends.native.units.scalable import Scalable, fixed
from backends.native.units.vector import BYTES
from backends.native.vectors import DOUBLE, FLOAT, HALF, I1, I8, I16, I32, I64, llvm_type
from compiler import dtypes
from compiler.dtypes import DType
from compiler.mathlib.exact import dot32, dot32_to_odd, fma32, fma64

VOID, POINTER = ir.VoidType(), I8.as_pointer()
WIDTHS = (16, 32, 64, 128, 256)  # bytes a vector of streaming mode may have
USUAL = 64  # for lists of what there is
GRIDS, DOUBLE_GRIDS = (Grid(2, 2), Grid(2, 1)), (Grid(2, 4), Grid(2, 2), Grid(2, 1))
_ELEMENTS = {"float64": DOUBLE, "float32": FLOAT, "float16": HALF, "bfloat16": Bfloat(), "int8": I8, "uint8": I8}
_BUFFER, _ROWS = 0, 8  # bytes into the block by which a caller asks to have its tiles saved


@dataclass(frozen=True)
class OuterProductUnit(MatrixUnit):
    """`product` is the intrinsic's name."""

    product: str = ""

    def missing(self, target: Target) -> str:
        return super().missing(target) or ("" if target.streaming else "a vector length of streaming mode")

    @property
    def in_place(self) -> bool:
        return False

    @property
    def acc_type(self) -> None:
        return None

    @property
    def in_order(self) -> bool:
        return self.acc.is_integer or self.k == 1

    @property
    def mma_cycles(self) -> float:
        return 1.0

    @property
    def vector(self) -> int:
        """Bytes of a vector."""
        return self.n * self.acc.bytes

    @property
    def packing_lanes(self) -> int:
        return 16 // self.acc.bytes  # outside streaming mode registers have 16 bytes

    @property
    def gives_rows(self) -> bool:
        return True

    @property
    def mode(self) -> tuple[str, ...]:
        return '"aarch64_pstate_sm_enabled"', *self._code

    @property
    def switching(self) -> tuple[str, ...]:
        return '"aarch64_pstate_sm_body"', *self._code

    def enter(self, builder: ir.IRBuilder) -> None:
        """Switch the tiles on. A function further up that left values in them has asked for them to be saved by
        whoever needs the tiles next.

        Arm, "Procedure Call Standard for the Arm 64-bit Architecture", the lazy saving scheme.
        """
        block = call(builder, "llvm.aarch64.sme.get.tpidr2", I64, [])
        with builder.if_then(builder.icmp_unsigned("!=", block, I64(0)), likely=False):
            place = builder.inttoptr(block, POINTER)
            buffer = builder.load(builder.bitcast(builder.gep(place, [I64(_BUFFER)]), POINTER.as_pointer()))
            rows = builder.load(builder.bitcast(builder.gep(place, [I64(_ROWS)]), I16.as_pointer()))
            wanted = builder.icmp_unsigned("!=", builder.ptrtoint(buffer, I64), I64(0))
            rows = builder.select(wanted, builder.zext(rows, I64), I64(0))

            def save(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                there = builder.gep(buffer, [builder.mul(i, I64(self.vector))])
                call(builder, "llvm.aarch64.sme.str", VOID, [builder.trunc(i, I32), there, I32(0)])
                return []

            counted_loop(builder, I64(0), rows, I64(1), [], save)
            call(builder, "llvm.aarch64.sme.set.tpidr2", VOID, [I64(0)])
        call(builder, "llvm.aarch64.sme.za.enable", VOID, [])

    def leave(self, builder: ir.IRBuilder) -> None:
        call(builder, "llvm.aarch64.sme.za.disable", VOID, [])

    def zero(self, builder: ir.IRBuilder, number: int) -> int:
        # The instruction names tiles of 64 bits, of which one of 32 is two.
        mask = sum(1 << number + 4 * half for half in range(8 // self.acc.bytes))
        call(builder, "llvm.aarch64.sme.zero", VOID, [I32(mask)])
        return number

    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> int:
        self._transfer(builder, "ld1", number, pointer, row_stride)
        return number

    def store(self, builder: ir.IRBuilder, acc: ir.Value | int, pointer: ir.Value, row_stride: int) -> None:
        self._transfer(builder, "st1", acc, pointer, row_stride)

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> ir.Value:
        return builder.load(builder.bitcast(pointer, self.operand.as_pointer()), align=self.a.bytes)

    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0) -> ir.Value:
        return builder.load(builder.bitcast(pointer, self.operand.as_pointer()), align=self.b.bytes)

    def ones(self, builder: ir.IRBuilder) -> ir.Value:
        return ir.Constant(self.operand, 1)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value | int, a: ir.Value, b: ir.Value) -> int:
        assert isinstance(acc, int)
        every = ir.Constant(Scalable(I1, self.operand.count), True)
        call(builder, self.product, VOID, [I32(acc), every, every, a, b])
        return acc

    def row(self, builder: ir.IRBuilder, acc: ir.Value | int, row: int | ir.Value) -> ir.Value:
        kind = Scalable(llvm_type(self.acc), 16 // self.acc.bytes)
        every, undefined = ir.Constant(Scalable(I1, kind.count), True), ir.Constant(kind, ir.Undefined)
        place = I32(row) if isinstance(row, int) else builder.trunc(row, I32)
        name = f"llvm.aarch64.sme.read.horiz.{kind.intrinsic_name}"
        value = call(builder, name, kind, [undefined, every, I32(acc), place])
        return fixed(builder, value, ir.VectorType(kind.element, self.n))

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Integers modulo 2^32; FP32 and FP64 a chain of multiply-adds. Of 16-bit floats two products are added up
        first, with one rounding where they are halves; for bfloat16 (FPCR.EBF = 0, as Linux and macOS start programs)
        every result is rounded to odd and FP32 denormals count as 0."""
        if self.acc.is_integer:
            return acc + np.matmul(a.astype(self.acc.numpy), b.astype(self.acc.numpy))
        if self.k == 1:
            fma = fma32 if self.acc.bits == 32 else fma64
            for k in range(a.shape[1]):
                acc = fma(*np.broadcast_arrays(a[:, k : k + 1], b[k : k + 1], acc))
            return acc
        dot = dot32 if self.a == dtypes.float16 else dot32_to_odd
        left, right = a.astype(np.float32), b.astype(np.float32)
        for k in range(0, a.shape[1], 2):
            pairs = (left[:, k : k + 1], right[k : k + 1], left[:, k + 1 : k + 2], right[k + 1 : k + 2])
            acc = dot(*np.broadcast_arrays(*pairs, acc))
        return acc

    @property
    def _code(self) -> tuple[str, ...]:
        times = self.vector // 16
        return by_lane.ATTRIBUTE, rounds_to_bfloat(self.vector // 4), f"vscale_range({times},{times})"

    @property
    def operand(self) -> Scalable:
        """The type of a vector of A or B."""
        return Scalable(_ELEMENTS[self.a.name], 16 // self.a.bytes)

    def _transfer(
        self, builder: ir.IRBuilder, name: str, tile: ir.Value | int, pointer: ir.Value, row_stride: int
    ) -> None:
        """Every row of a tile from or to memory."""
        every = ir.Constant(Scalable(I1, 16 // self.acc.bytes), True)
        size = {4: "w", 8: "d"}[self.acc.bytes]
        together = 16 // self.acc.bytes  # rows whose number the instruction adds to a register's

        def some(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            there, first = builder.gep(pointer, [builder.mul(i, I64(row_stride))]), builder.trunc(i, I32)
            for row in range(together):
                operands = [every, builder.gep(there, [I64(row * row_stride)]), I32(tile), builder.add(first, I32(row))]
                call(builder, f"llvm.aarch64.sme.{name}{size}.horiz", VOID, operands)
            return []

        counted_loop(builder, I64(0), I64(self.m), I64(together), [], some)


_SIGNS = {("int", "int"): "smopa", ("uint", "uint"): "umopa", ("int", "uint"): "sumopa", ("uint", "int"): "usmopa"}


@lru_cache(maxsize=8)
def units(vector: int) -> tuple[OuterProductUnit, ...]:
    """The units for vectors of `vector` bytes in streaming mode; 0 where there is none: those of the usual length."""
    assert vector in (0, *WIDTHS), f"streaming mode with vectors of {vector} bytes"
    vector = vector or USUAL

    def unit(a: DType, b: DType, acc: DType, k: int, product: str) -> OuterProductUnit:
        wide = acc == dtypes.float64
        requires = ("sme", "sme-f64f64") if wide else ("sme",)
        side, grids = vector // acc.bytes, DOUBLE_GRIDS if wide else GRIDS
        name = f"llvm.aarch64.sme.{product}"
        return OuterProductUnit("sme", "aarch64", requires, a, b, acc, side, side, k, grids, 0, name)

    single = dtypes.float32
    return (
        unit(single, single, single, 1, "mopa.nxv4f32"),
        unit(dtypes.float64, dtypes.float64, dtypes.float64, 1, "mopa.nxv2f64"),
        unit(dtypes.bfloat16, dtypes.bfloat16, single, 2, "mopa.wide.nxv8bf16"),
        unit(dtypes.float16, dtypes.float16, single, 2, "mopa.wide.nxv8f16"),
        *(unit(a, b, dtypes.int32, 4, f"{_SIGNS[a.kind, b.kind]}.wide.nxv16i8") for a in BYTES for b in BYTES),
    )
