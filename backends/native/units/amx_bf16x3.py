"""FP32 on AMX: every element as three bfloat16 pieces, and of the nine products of pieces the six that matter.

The idea of oneMKL's float_to_bf16x3 (Henry, Tang and Heinecke, arXiv:1904.06376): what is dropped is 2^-24 of a product
at most, as much as rounding it once, and accumulators are FP32. docs/precision.md has the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from llvmlite import ir

from backends.native.frame import move
from backends.native.pack import PanelPacker
from backends.native.pieces import COUNT, PIECE_BYTES, PIECES, RUN, PiecesPacker, pieces_of, rounded
from backends.native.target import Target
from backends.native.units.amx import GRIDS, ROW_BYTES, ROWS, TileUnit
from backends.native.units.base import MatrixUnit
from backends.native.units.dot import Bfloat, call
from backends.native.vectors import I64
from compiler import dtypes
from compiler.dtypes import DType, named

# Pieces of A and of B to multiply, each pair having one piece in common with the pair before, so that a step loads as
# few tiles as can be (14 for 24 products of a grid of 2 x 2: 112 cycles beside 384). The largest come last.
ORDER = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0))
NARROWING = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"  # on every processor with tiles; flushes denormals


@dataclass(frozen=True)
class PiecesUnit(TileUnit):
    """A product is six of the instruction for bfloat16. `narrowing` is the intrinsic that rounds two registers of FP32
    to one, where there is one."""

    narrowing: str = ""

    def on(self, target: Target) -> MatrixUnit:
        return replace(self, narrowing=NARROWING) if target.has("avx512bf16") else self

    def narrowed(self, builder: ir.IRBuilder, elements: ir.Value) -> ir.Value:
        if not self.narrowing:
            return rounded(builder, elements)
        kind, half = ir.VectorType(ir.IntType(32), RUN // 2), RUN // 2
        undefined = ir.Constant(elements.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(elements, undefined, ir.Constant(kind, list(range(first, first + half))))
            for first in (0, half)
        )
        piece = call(builder, self.narrowing, ir.VectorType(Bfloat(), RUN), [high, low])
        return builder.bitcast(piece, ir.VectorType(ir.IntType(16), RUN))

    @property
    def splits(self) -> int:
        return COUNT

    @property
    def left(self) -> DType:
        return PIECES

    @property
    def right(self) -> DType:
        return PIECES

    @property
    def tuning(self) -> tuple[str, ...]:
        """A step loads a tile several times. For processors whose code LLVM schedules after registers are allocated (a
        property of their model) it renames what is loaded again to tiles that seem free, though of other extents."""
        return ('"tune-cpu"="generic"',)

    @property
    def packing(self) -> Callable[..., PanelPacker]:
        return partial(PiecesPacker, self.narrowed)

    @property
    def mma_cycles(self) -> float:
        return super().mma_cycles * len(ORDER)

    # Rows of a window are gathered as they are, and then split.

    @property
    def row_types(self) -> tuple[DType, DType]:
        bits = named(f"uint{self.a.bits}")
        return bits, bits

    @property
    def row_lanes(self) -> int:
        return self.n

    def converted(self, builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
        return value

    def step(
        self,
        builder: ir.IRBuilder,
        accs: Sequence[ir.Value | int],
        left: tuple[Iterable[ir.Value], ir.Value],
        right: tuple[Iterable[ir.Value], ir.Value],
        expect: Callable[[], None],
    ) -> list[ir.Value | int]:
        """Pair of pieces after pair of pieces, each over the whole grid, so that one product does not wait for the one
        before."""
        rows, columns = list(left[0]), list(right[0])
        a, b, held = [], [], (-1, -1)
        for number, pair in enumerate(ORDER):
            offsets = [I64(piece * PIECE_BYTES) for piece in pair]
            if pair[1] != held[1]:
                b = [self.load_b(builder, move(builder, at, offsets[1]), right[1], j) for j, at in enumerate(columns)]
            if not number:
                expect()
            if pair[0] != held[0]:
                a = [self.load_a(builder, move(builder, at, offsets[0]), left[1], i) for i, at in enumerate(rows)]
            held = pair
            for i, element in enumerate(a):
                for j, other in enumerate(b):
                    super().mma(builder, accs[i * len(b) + j], element, other)
        return list(accs)

    def mma(self, builder: ir.IRBuilder, acc: ir.Value | int, a: int, b: int) -> int:
        """As many instructions as a product takes, all on the pieces that are loaded: what a loop on registers alone
        can run. `step` loads the others."""
        for _ in ORDER:
            number = super().mma(builder, acc, a, b)
        return number

    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The products of pieces in their order, as the instruction for bfloat16 adds them up."""
        left, right = pieces_of(a), pieces_of(b)
        for p, q in ORDER:
            acc = super().emulate(acc, left[p], right[q])
        return acc


_FP32 = dtypes.float32
UNITS = (
    PiecesUnit(
        "amx_bf16x3", "x86_64", ("amx-tile", "amx-bf16"), _FP32, _FP32, _FP32, ROWS, ROW_BYTES // _FP32.bytes, RUN,
        GRIDS, 0, "llvm.x86.tdpbf16ps",
    ),
)  # fmt: skip
