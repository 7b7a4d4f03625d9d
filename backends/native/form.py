"""What shapes a GEMM kernel's code, what it is told at run time, and what the parts of its generator share."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.frame import Frame, move
from backends.native.kernel import I64
from backends.native.units import Grid, MatrixUnit
from compiler.kernels import GemmSpec

# The argument words before the operands, in order. Offsets are of scratch, in bytes: `rows_offset` of rows of A
# (gathered or copied, `pitch` bytes apart) or their addresses, `a_offset` of packed A or a row of padding, `row_sums`
# and `column_sums` of a block's and an item's sums. `slab`: rows of K that pass over all panels before the next do;
# `ahead`: bytes to prefetch behind rows of B that are packed or read in slabs. `k_step`: bytes of a row of a panel
# packed in the call, 0 if its slabs follow one another in one place. `tile_step` and `panel_step`: from tile to tile
# that wait for the next K block. `total`: bytes from the tiles of a K block's chains to those of the chunks before.
# `segment`: elements of K that lie side by side in A. `end_a`: whether of rows of A only what is left of K behind whole
# steps is copied.
HEADER = ("items", "items_per_chunk", "m_items", "n_items", "item_rows", "item_columns", "block_rows", "m", "n", "k",
          "depth", "slab", "ahead", "pack_b", "b_offset", "b_step", "k_step", "copy_a", "end_a", "pack_a",
          "rows_offset", "pitch", "a_offset", "tile_step", "panel_step", "total", "segment", "row_sums",
          "column_sums")  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What shapes a GEMM kernel's code besides its spec. `rows`: row counts micro-kernels exist for, descending;
    `columns`: their column counts, ascending: of a tail that is known, or all; last the grid's own; `few`:
    row counts that several panels at a time are multiplied with; `readers`: micro-kernels that read a panel one after
    the other; `packs_a`: whether there is code to pack blocks of A into panels; `indirect`: whether a window's rows
    are read where they lie, through a table, instead of gathered; `copies_a`: whether there is code that copies rows
    of A into scratch, as the unit reads them."""

    grid: Grid
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    few: tuple[int, ...]
    readers: int
    packs_a: bool
    indirect: bool
    copies_a: bool = False


@dataclass(frozen=True)
class Context:
    """A kernel being generated: where its code goes, its argument words, its scratch and its frame."""

    module: ir.Module
    name: str
    spec: GemmSpec
    unit: MatrixUnit
    shape: Shape
    builder: ir.IRBuilder
    word: dict[str, ir.Value]
    scratch: ir.Value
    frame: Frame

    def at(self, offset: str) -> ir.Value:
        """The place in scratch that an offset word names."""
        return move(self.builder, self.scratch, self.word[offset])

    def panel_bytes(self, width: int, size: int) -> ir.Value:
        """Bytes of a packed panel: K rounded up to the unit's."""
        depth = self.unit.k
        blocks = self.builder.udiv(self.builder.add(self.word["k"], I64(depth - 1)), I64(depth))
        return self.builder.mul(blocks, I64(width * depth * size))
