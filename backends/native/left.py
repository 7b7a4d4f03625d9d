"""The A side of a GEMM kernel: where the rows of a block lie, and how they get there.

In place through any strides; packed into panels, for units that need them or layouts that deserve it; for a window
gathered into scratch, or left in place behind a table of their addresses.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.form import Context
from backends.native.frame import move
from backends.native.gather import define_gatherer
from backends.native.indirect import ADDRESS, define_row_table
from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, smaller
from backends.native.pack import Panel, define_panel_packer
from backends.native.vectors import llvm_type


class LeftOperand:
    """A of one kernel; `row` and `k` are its strides in bytes, `window` the window's argument words."""

    def __init__(self, context: Context, row: ir.Value, k: ir.Value, window: ir.Value) -> None:
        self.context, self.row_stride, self.k_stride, self.window = context, row, k, window
        spec, unit, shape = context.spec, context.unit, context.shape
        self.height, self.depth = unit.panels(shape.grid)[0]
        if shape.indirect:
            self.table = define_row_table(context.module, f"{context.name}_rows", spec.window, self.height)
        elif spec.window:
            self.gather = define_gatherer(context.module, f"{context.name}_gather", spec.window, spec.a, unit.n)
        if shape.packs_a:
            axis = "k" if spec.window else {"row": "k", "column": "x"}.get(spec.a_axis, "")
            panel = Panel(spec.a, self.height, self.depth, unit.n)
            self.packer = define_panel_packer(context.module, f"{context.name}_pack_a", panel, axis)

    def begin(self) -> None:
        """What every chunk needs once."""
        context, builder = self.context, self.context.builder
        unit, frame = context.unit, context.frame
        # A window without channels has no segments, and nothing may divide by their length.
        empty = builder.icmp_signed("==", context.word["segment"], I64(0))
        self.segment = builder.select(empty, I64(1), context.word["segment"])
        frame.set("segment", self.segment)
        if context.shape.packs_a:
            frame.set("a_k", I64(self.height * unit.k * unit.a.bytes))
            frame.set("a_row", I64(self.depth * unit.a.bytes))
        else:
            frame.set("a_k", builder.mul(self.k_stride, I64(unit.k)))
            frame.set("a_row", self.row_stride)
        if context.shape.indirect:
            self._clear_zeros()

    def _clear_zeros(self) -> None:
        """The row that stands for padding."""
        builder, dtype = self.context.builder, self.context.spec.a
        zeros = builder.bitcast(self.context.at("a_offset"), llvm_type(dtype).as_pointer())

        def clear(i: ir.Value, _: Values) -> Values:
            builder.store(ir.Constant(llvm_type(dtype), 0), builder.gep(zeros, [i]))
            return []

        counted_loop(builder, I64(0), self.segment, I64(1), [], clear)

    def block(self, a: ir.Value, m: ir.Value, rows: ir.Value) -> None:
        """Make `rows` rows from `m` on ready, of the matrix at `a`."""
        context, builder = self.context, self.context.builder
        if context.shape.indirect:
            self.start = context.at("rows_offset")
            builder.call(self.table, [self.window, a, m, rows, context.at("a_offset"), self.start])
        elif context.spec.window:
            self.start = context.at("rows_offset")
            builder.call(self.gather, [self.window, a, m, rows, self.start])
        else:
            self.start = move(builder, a, builder.mul(m, self.row_stride))
        if context.shape.packs_a:
            self.start = self._pack(rows)

    def _pack(self, rows: ir.Value) -> ir.Value:
        context, builder, source = self.context, self.context.builder, self.start
        panel_bytes = context.panel_bytes(self.height, self.depth, context.unit.a.bytes)

        def panel(i: ir.Value, carried: Values) -> Values:
            count = smaller(builder, I64(self.height), builder.sub(rows, i))
            first = move(builder, source, builder.mul(i, self.row_stride))
            arguments = [first, self.row_stride, self.k_stride, count, context.word["k"], carried[0]]
            builder.call(self.packer, arguments)
            return [move(builder, carried[0], panel_bytes)]

        counted_loop(builder, I64(0), rows, I64(self.height), [context.at("a_offset")], panel)
        return context.at("a_offset")

    def address(self, i: ir.Value, k: ir.Value) -> ir.Value:
        """What a micro-kernel reads row `i` of the block through, from column k on: whole segments or panel depths."""
        context, builder = self.context, self.context.builder
        size = context.unit.a.bytes
        if not (context.shape.indirect or context.shape.packs_a):
            offset = builder.add(builder.mul(i, self.row_stride), builder.mul(k, self.k_stride))
            return move(builder, self.start, offset)
        block, row = builder.udiv(i, I64(self.height)), builder.urem(i, I64(self.height))
        if context.shape.indirect:
            segments = builder.mul(block, builder.udiv(context.word["k"], self.segment))
            segments = builder.add(segments, builder.udiv(k, self.segment))
            entry = builder.add(builder.mul(segments, I64(self.height)), row)
            return move(builder, self.start, builder.mul(entry, I64(ADDRESS)))
        panel = builder.mul(block, context.panel_bytes(self.height, self.depth, size))
        within = builder.add(builder.mul(row, I64(self.depth * size)), builder.mul(k, I64(self.height * size)))
        return move(builder, self.start, builder.add(panel, within))
