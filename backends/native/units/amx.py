"""AMX: eight tiles of 16 rows of 64 bytes. Four accumulate, two hold rows of A, two groups of D rows of B as wide as a
row: every product adds up D neighbours along K, 2 of 16 bits or 4 bytes of any signs, for 16 x 16 elements.

Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 2, and "Intel Architecture Instruction Set
Extensions Programming Reference", chapter on AMX. Tiles are named by constants and the intrinsics keep their order:
LLVM allocates none of them and saves none around calls, and the engine calls nothing but its own functions while it
works on tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.units.base import Grid, MatrixUnit
from backends.native.units.dot import call
from backends.native.units.vector import BYTES
from backends.native.vectors import constant, llvm_type
from compiler import dtypes
from compiler.dtypes import DType
from compiler.mathlib.exact import flushed, fma32

I8, I64, VOID = ir.IntType(8), ir.IntType(64), ir.VoidType()
ROWS, ROW_BYTES, TILES = 16, 64, 8  # of palette 1
LEFT, RIGHT = 4, 6  # the first tile of A and of B; accumulators come before
GRIDS = (Grid(2, 2), Grid(2, 1))  # of tiles of full height; fewer rows make 1 x 2 and 1 x 1 of them
_CONFIGURATION, _ROW_COUNTS = 64, 48  # bytes of a configuration; where it holds one byte of rows a tile


@dataclass(frozen=True)
class TileUnit(MatrixUnit):
    """`product` is the intrinsic's name."""

    product: str = ""

    @property
    def in_place(self) -> bool:
        return True

    @property
    def acc_type(self) -> None:
        return None

    @property
    def mma_cycles(self) -> float:
        return float(ROWS)  # a row of A each

    def panels(self, grid: Grid) -> tuple[tuple[int, int], tuple[int, int]]:
        return (grid.rows * self.m, self.k), (grid.columns * self.n, self.k // ROWS)

    @property
    def finishes_late(self) -> bool:
        return True

    @property
    def outruns_l2(self) -> bool:
        return True  # four tiles for four products: 64 bytes a cycle

    @property
    def limits_rows(self) -> bool:
        return True

    @property
    def reads_ends(self) -> bool:
        return not self.splits

    def enter(self, builder: ir.IRBuilder) -> None:
        self._configure(builder, {})

    def leave(self, builder: ir.IRBuilder) -> None:
        call(builder, "llvm.x86.tilerelease", VOID, [])

    def limit(self, builder: ir.IRBuilder, grid: Grid, rows: ir.Value) -> None:
        last = builder.trunc(builder.sub(rows, I64((grid.rows - 1) * self.m)), I8)
        accumulators = range((grid.rows - 1) * grid.columns, grid.rows * grid.columns)
        self._configure(builder, dict.fromkeys((*accumulators, LEFT + grid.rows - 1), last))

    def zero(self, builder: ir.IRBuilder, number: int) -> int:
        call(builder, "llvm.x86.tilezero", VOID, [I8(number)])
        return number

    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> int:
        return self._load(builder, number, pointer, I64(row_stride))

    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> int:
        return self._load(builder, LEFT + number, pointer, row_stride)

    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0) -> int:
        return self._load(builder, RIGHT + number, pointer, group_stride)

    def ones(self, builder: ir.IRBuilder) -> int:
        kind = ir.VectorType(llvm_type(self.a), self.k)
        with builder.goto_entry_block():
            row = builder.alloca(kind)
            row.align = ROW_BYTES
            builder.store(constant(kind, 1), row, align=ROW_BYTES)
        return self._load(builder, LEFT, builder.bitcast(row, I8.as_pointer()), I64(0))

    def mma(self, builder: ir.IRBuilder, acc: ir.Value | int, a: int, b: int) -> int:
        assert isinstance(acc, int)
        call(builder, self.product, VOID, [I8(acc), I8(a), I8(b)])
        return acc

    def store(self, builder: ir.IRBuilder, acc: ir.Value | int, pointer: ir.Value, row_stride: int) -> None:
        call(builder, "llvm.x86.tilestored64", VOID, [I8(acc), pointer, I64(row_stride)])

    def row(self, builder: ir.IRBuilder, acc: ir.Value | int, row: int) -> ir.Value:
        kind = ir.VectorType(llvm_type(self.acc), self.n)
        with builder.goto_entry_block():
            tile = builder.alloca(kind, size=ROWS)
            tile.align = ROW_BYTES
        self.store(builder, acc, builder.bitcast(tile, I8.as_pointer()), ROW_BYTES)
        return builder.load(builder.gep(tile, [I64(row)]), align=ROW_BYTES)

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Integers modulo 2^32. Floats: products of even k and of odd k are two chains of multiply-adds from zero,
        whose sum is added to acc; every result is rounded to nearest even, FP32 and bfloat16 denormals count as 0."""
        if self.acc.is_integer:
            return acc + np.matmul(a.astype(self.acc.numpy), b.astype(self.acc.numpy))
        taken = (lambda x: x) if self.a == dtypes.float16 else flushed
        left, right = (taken(x.astype(np.float32)) for x in (a, b))
        chains = []
        for first in (0, 1):
            chain = np.zeros(acc.shape, np.float32)
            for k in range(first, a.shape[1], 2):
                operands = np.broadcast_arrays(left[:, k : k + 1], right[k : k + 1], chain)
                chain = flushed(fma32(*operands))
            chains.append(chain)
        return flushed(flushed(acc) + flushed(chains[0] + chains[1]))

    def _load(self, builder: ir.IRBuilder, tile: int, pointer: ir.Value, row_stride: ir.Value) -> int:
        call(builder, "llvm.x86.tileloadd64", VOID, [I8(tile), pointer, row_stride])
        return tile

    def _configure(self, builder: ir.IRBuilder, rows: Mapping[int, ir.Value]) -> None:
        """Every tile cleared and of full size, but for those of fewer `rows`."""
        content = bytearray(_CONFIGURATION)
        content[0] = 1  # the palette
        for tile in range(TILES):
            content[16 + 2 * tile], content[_ROW_COUNTS + tile] = ROW_BYTES, ROWS
        kind = ir.VectorType(I8, _CONFIGURATION)
        with builder.goto_entry_block():
            place = builder.alloca(kind)
            place.align = _CONFIGURATION
        builder.store(ir.Constant(kind, list(content)), place, align=_CONFIGURATION)
        pointer = builder.bitcast(place, I8.as_pointer())
        for tile, count in rows.items():
            builder.store(count, builder.gep(pointer, [I64(_ROW_COUNTS + tile)]), align=1)
        call(builder, "llvm.x86.ldtilecfg", VOID, [pointer])


def _unit(kind: str, a: DType, b: DType, acc: DType, product: str) -> TileUnit:
    requires, depth, width = ("amx-tile", f"amx-{kind}"), ROW_BYTES // a.bytes, ROW_BYTES // acc.bytes
    return TileUnit(f"amx_{kind}", "x86_64", requires, a, b, acc, ROWS, width, depth, GRIDS, 0, product)


_SIGNS = {"int": "s", "uint": "u"}
UNITS = (
    _unit("bf16", dtypes.bfloat16, dtypes.bfloat16, dtypes.float32, "llvm.x86.tdpbf16ps"),
    _unit("fp16", dtypes.float16, dtypes.float16, dtypes.float32, "llvm.x86.tdpfp16ps"),
    *(
        _unit("int8", a, b, dtypes.int32, f"llvm.x86.tdpb{_SIGNS[a.kind]}{_SIGNS[b.kind]}d")
        for a in BYTES
        for b in BYTES
    ),
)
