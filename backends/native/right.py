"""The B side of a GEMM kernel: panels packed ahead, packed in the call, or rows read in place.

Where sums of columns are needed, those of a matrix packed ahead lie behind its panels, one a column of every panel.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.form import Context
from backends.native.frame import move
from backends.native.kernel import I64
from backends.native.loops import smaller
from backends.native.pack import Panel, define_panel_packer
from backends.native.sums import define_column_sums

ROWS_AHEAD = 16  # of a fresh B that few rows read in place
AHEAD = 8192  # bytes to prefetch ahead of the only micro-kernel that reads a panel


class RightOperand:
    """B of one kernel. A fresh B has strides in bytes, `k` and `n`; a constant one comes in panels. `sums`: whether its
    columns are summed."""

    def __init__(self, context: Context, k: ir.Value | None, n: ir.Value | None, sums: bool) -> None:
        self.context, self.k_stride, self.n_stride, self.sums = context, k, n, sums
        spec, unit = context.spec, context.unit
        self.width, self.depth = unit.panels(context.shape.grid)[1]
        if not spec.constant_b:
            axis = {"row": "x", "column": "k"}.get(spec.b_axis, "")
            panel = Panel(spec.b, self.width, self.depth, unit.packing_lanes, unit.k, unit.zips)
            self.packer = define_panel_packer(context.module, f"{context.name}_pack_b", panel, axis, True, unit.packing)
            if sums:
                self.summer = define_column_sums(context.module, f"{context.name}_column_sums", unit, self.width)

    def begin(self) -> None:
        """What every chunk needs once."""
        frame, size = self.context.frame, self.context.unit.right.bytes
        if self.context.spec.constant_b:
            self.panel_bytes = self.context.panel_bytes(self.width, size)
            frame.set("b_panel", self.panel_bytes)
        else:
            frame.set("b_panel", I64(self.width * size))

    def item(self, b: ir.Value, n: ir.Value) -> None:
        """Turn to the matrix at `b`, columns from `n` on."""
        self.matrix, self.first_column = b, n
        if not self.sums:
            return
        context, builder, size = self.context, self.context.builder, self.context.unit.acc.bytes
        if context.spec.constant_b:
            panels = builder.udiv(builder.add(context.word["n"], I64(self.width - 1)), I64(self.width))
            first = move(builder, b, builder.mul(panels, self.panel_bytes))
        else:
            first = move(builder, context.at("column_sums"), builder.mul(n, I64(-size)))
        self.column_sums = first
        context.frame.set("column_sums", builder.ptrtoint(first, I64))

    def block(self, is_first: ir.Value, row_blocks: ir.Value) -> None:
        """Turn to the next block of rows. The next panel is prefetched while `row_blocks` micro-kernels read this one,
        so each takes an equal share; only packed panels have a next one behind them."""
        context, builder, unit = self.context, self.context.builder, self.context.unit
        step = builder.udiv(I64(self.width * unit.k * unit.right.bytes), row_blocks)
        if not context.spec.constant_b:
            self.is_stale = builder.or_(is_first, builder.icmp_signed("==", context.word["b_step"], I64(0)))
            by_slabs = builder.icmp_signed("<", context.word["slab"], context.word["k"])
            self.in_slabs = builder.and_(by_slabs, builder.icmp_signed("==", context.word["k_step"], I64(0)))
            step = builder.select(self.is_stale, I64(0), step)
            step = builder.select(self.in_slabs, builder.mul(self.k_stride, I64(unit.k)), step)
            context.frame.set("b_k", self.k_stride)  # the last panel of the block before may have been packed
        self.prefetch_step, self.once = step, builder.icmp_signed("==", row_blocks, I64(1))
        context.frame.set("prefetch_step", step)

    def expect_rows(self) -> None:
        """Prefetch row by row from now on, if B is fresh: what `rows_ahead` points at."""
        if not self.context.spec.constant_b:
            step = self.context.builder.mul(self.k_stride, I64(self.context.unit.k))
            self.context.frame.set("prefetch_step", step)

    def rows_ahead(self, b: ir.Value) -> ir.Value:
        """Some rows further down a fresh B than `b`."""
        builder = self.context.builder
        return b if self.context.spec.constant_b else move(builder, b, builder.mul(self.k_stride, I64(ROWS_AHEAD)))

    def start(self, n: ir.Value, k: ir.Value) -> ir.Value:
        """Where the panel at column n begins, from row k on: packed ahead, or inside a fresh B."""
        builder, size = self.context.builder, self.context.unit.right.bytes
        if not self.context.spec.constant_b:
            return move(builder, self.matrix, builder.add(builder.mul(n, self.n_stride), builder.mul(k, self.k_stride)))
        panel = builder.mul(builder.udiv(n, I64(self.width)), self.panel_bytes)
        return move(builder, self.matrix, builder.add(panel, builder.mul(k, I64(self.width * size))))

    def stream(self, n: ir.Value, k: ir.Value) -> ir.Value:
        """Where a micro-kernel of few rows begins to read panels, from column n and row k on."""
        return self.start(n, k)

    def panel(self, n: ir.Value, k: ir.Value, valid: ir.Value, depth: ir.Value) -> ir.Value:
        """The panel for the micro-kernels; a fresh one is packed for the item's first block, or read in place."""
        context, builder, size = self.context, self.context.builder, self.context.unit.right.bytes
        there = self.start(n, k)
        if context.spec.constant_b:
            return there
        if not context.unit.mode:
            self.pack(n, k, valid, depth)
        packs = self._packs(valid)
        context.frame.set("b_k", builder.select(packs, I64(self.width * self.depth * size), self.k_stride))
        return builder.select(packs, self._packed(n, k), there)

    def pack(self, n: ir.Value, k: ir.Value, valid: ir.Value, depth: ir.Value) -> None:
        """Pack `depth` rows from k on of the fresh panel at column n, unless that has been done or is not wanted."""
        context, builder = self.context, self.context.builder
        needed = builder.and_(self._packs(valid), self.is_stale)
        if self.sums:
            # The sums are over all of K, so with the first block all of it is packed.
            needed, depth = builder.and_(needed, builder.icmp_signed("==", k, I64(0))), context.word["k"]
        with builder.if_then(needed):
            packed = self._packed(n, k)
            there = self.start(n, k)
            arguments = [there, self.n_stride, self.k_stride, valid, depth, packed, context.word["ahead"]]
            builder.call(self.packer, arguments)
            if self.sums:
                sums = move(builder, self.column_sums, builder.mul(n, I64(context.unit.acc.bytes)))
                builder.call(self.summer, [packed, depth, sums])

    def _packs(self, valid: ir.Value) -> ir.Value:
        builder = self.context.builder
        partial = builder.icmp_signed("<", valid, I64(self.width))
        return builder.or_(partial, builder.icmp_signed("!=", self.context.word["pack_b"], I64(0)))

    def _packed(self, n: ir.Value, k: ir.Value) -> ir.Value:
        """Where in scratch the panel at column n is, from row k on."""
        context, builder = self.context, self.context.builder
        number = builder.udiv(builder.sub(n, self.first_column), I64(self.width))
        offset = builder.add(builder.mul(number, context.word["b_step"]), builder.mul(k, context.word["k_step"]))
        return move(builder, context.at("b_offset"), offset)

    def prefetch(self, panel: ir.Value, depth: ir.Value, block: ir.Value) -> ir.Value:
        """Where the micro-kernel of row block number `block` begins to prefetch: a panel ahead, to share that out; if
        it is the only one, some lines ahead."""
        builder = self.context.builder
        word = self.context.word
        whole = self.panel_bytes if self.context.spec.constant_b else word["b_step"]
        ahead = builder.mul(depth, I64(self.width * self.context.unit.right.bytes))
        ahead = builder.select(builder.icmp_signed("<", word["slab"], word["k"]), whole, ahead)
        ahead = builder.select(self.once, smaller(builder, ahead, I64(AHEAD)), ahead)
        following = move(builder, panel, ahead)
        if not self.context.spec.constant_b:
            following = builder.select(self.in_slabs, move(builder, panel, self.context.word["ahead"]), following)
        return move(builder, following, builder.mul(builder.mul(block, depth), self.prefetch_step))
