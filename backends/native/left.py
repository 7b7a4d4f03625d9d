"""The A side of a GEMM kernel: where the rows of a block lie, and how they get there.

In place through any strides; copied into scratch as the unit reads them, where it reads another type or neighbours
along K that are not there; packed into panels, for units that need them or layouts that deserve it; for a window
gathered into scratch, or left in place behind a table of their addresses.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.form import Context
from backends.native.frame import move
from backends.native.gather import define_gatherer
from backends.native.indirect import ADDRESS, define_row_table
from backends.native.kernel import I64, POINTER
from backends.native.left_rows import define_row_copier
from backends.native.loops import Values, counted_loop, smaller
from backends.native.pack import Panel, define_panel_packer
from backends.native.pieces import define_row_splitter
from backends.native.sums import define_row_sums
from backends.native.vectors import constant, llvm_type, load_vector, register_type, splat, store_vector


class LeftOperand:
    """A of one kernel; `row` and `k` are its strides in bytes, `window` the window's argument words. `sums`: whether
    its rows are summed."""

    def __init__(self, context: Context, row: ir.Value, k: ir.Value, window: ir.Value, sums: bool) -> None:
        self.context, self.source_row, self.source_k, self.window = context, row, k, window
        self.row_stride, self.k_stride, self.sums = row, k, None
        spec, unit, shape = context.spec, context.unit, context.shape
        self.height, self.depth = unit.panels(shape.grid)[0]
        if shape.indirect:
            self.table = define_row_table(context.module, f"{context.name}_rows", spec.window, self.height)
        elif spec.window:
            self.gather = define_gatherer(context.module, f"{context.name}_gather", spec.window, unit)
        if unit.splits:
            self.copier = define_row_splitter(context.module, f"{context.name}_split_a", unit.narrowed)
        elif shape.copies_a:
            self.copier = define_row_copier(context.module, f"{context.name}_copy_a", unit)
        if sums:
            self.sums = define_row_sums(context.module, f"{context.name}_row_sums", unit)
        if shape.packs_a:
            axis = "k" if spec.window or shape.copies_a else {"row": "k", "column": "x"}.get(spec.a_axis, "")
            panel = Panel(unit.left, self.height, self.depth, unit.packing_lanes, unit.k, unit.zips)
            self.packer = define_panel_packer(context.module, f"{context.name}_pack_a", panel, axis)

    def begin(self, filler: ir.Value | None) -> None:
        """What every chunk needs once. `filler`: the address of the element a window is padded with, None for zero."""
        context, builder = self.context, self.context.builder
        unit, frame, size = context.unit, context.frame, I64(context.unit.left.bytes)
        if context.spec.window and not context.shape.indirect:
            self.row_stride, self.k_stride = context.word["pitch"], size
        elif context.shape.copies_a:
            self.copies = builder.icmp_signed("!=", context.word["copy_a"], I64(0))
            self.row_stride = builder.select(self.copies, context.word["pitch"], self.source_row)
            self.k_stride = builder.select(self.copies, size, self.source_k)
            self.ends = builder.icmp_signed("!=", context.word["end_a"], I64(0))
        # A window without channels has no segments, and nothing may divide by their length.
        empty = builder.icmp_signed("==", context.word["segment"], I64(0))
        self.segment = builder.select(empty, I64(1), context.word["segment"])
        frame.set("segment", self.segment)
        k_step, row_step = builder.mul(self.k_stride, I64(unit.k)), self.row_stride
        if context.shape.packs_a:
            self.packs = builder.icmp_signed("!=", context.word["pack_a"], I64(0))
            k_step = builder.select(self.packs, I64(self.height * unit.k * unit.left.bytes), k_step)
            row_step = builder.select(self.packs, I64(self.depth * unit.left.bytes), row_step)
        frame.set("a_k", k_step)
        frame.set("a_row", row_step)
        if context.spec.window:
            self._pad_with(filler)

    def _pad_with(self, filler: ir.Value | None) -> None:
        """A register of padding for the gatherer, or the row that stands for padding in the table."""
        builder, unit = self.context.builder, self.context.unit
        read, written = unit.row_types
        kind = llvm_type(written)
        element: ir.Value = constant(register_type(read), 0)
        if filler is not None:
            element = load_vector(builder, builder.bitcast(filler, llvm_type(read).as_pointer()), read, 1)
        element = unit.converted(builder, element)
        if not self.context.shape.indirect:
            register = splat(builder, element, unit.row_lanes)
            self.filler = builder.bitcast(builder.alloca(register.type), POINTER)
            store_vector(builder, register, builder.bitcast(self.filler, kind.as_pointer()), written)
            return
        row = builder.bitcast(self.context.at("a_offset"), kind.as_pointer())

        def fill(i: ir.Value, _: Values) -> Values:
            store_vector(builder, element, builder.gep(row, [i]), written)
            return []

        counted_loop(builder, I64(0), self.segment, I64(1), [], fill)

    def block(self, a: ir.Value, m: ir.Value, rows: ir.Value) -> None:
        """Make `rows` rows from `m` on ready, of the matrix at `a`."""
        context, builder = self.context, self.context.builder
        if context.shape.indirect:
            self.start = context.at("rows_offset")
            builder.call(self.table, [self.window, a, m, rows, context.at("a_offset"), self.start])
        elif context.spec.window:
            self.start = context.at("rows_offset")
            if context.unit.splits:
                self._gather_and_split(a, m, rows)
            else:
                pitch, size = context.word["pitch"], I64(context.unit.left.bytes)
                spare = builder.sub(builder.udiv(pitch, size), context.word["k"])
                builder.call(self.gather, [self.window, a, m, rows, self.start, pitch, spare, self.filler])
        else:
            self.start = move(builder, a, builder.mul(m, self.source_row))
            if context.shape.copies_a:
                self.start = self._copy(rows)
        if self.sums is not None:
            words = [self.start, self.row_stride, rows, context.word["k"], context.at("row_sums")]
            builder.call(self.sums, words)
        if context.shape.packs_a:
            with builder.if_then(self.packs):
                self._pack(rows)
            self.start = builder.select(self.packs, context.at("a_offset"), self.start)

    def _gather_and_split(self, a: ir.Value, m: ir.Value, rows: ir.Value) -> None:
        """Runs of a row begin anywhere in its window, so it is gathered first as it is."""
        context, builder, size = self.context, self.context.builder, I64(self.context.spec.a.bytes)
        k, gathered = context.word["k"], context.at("a_offset")
        pitch = builder.mul(k, size)
        builder.call(self.gather, [self.window, a, m, rows, gathered, pitch, I64(0), self.filler])
        builder.call(self.copier, [gathered, pitch, size, rows, k, self.start, context.word["pitch"]])

    def _copy(self, rows: ir.Value) -> ir.Value:
        context, builder, there = self.context, self.context.builder, self.start
        scratch = context.at("rows_offset")
        with builder.if_then(self.copies):
            words = [there, self.source_row, self.source_k, rows, context.word["k"], scratch, context.word["pitch"]]
            builder.call(self.copier, words)
        if context.unit.reads_ends:
            with builder.if_then(self.ends):
                unit, k = context.unit, context.word["k"]
                rest = builder.urem(k, I64(unit.k))
                end = move(builder, there, builder.mul(builder.sub(k, rest), self.source_k))
                words = [end, self.source_row, self.source_k, rows, rest, scratch, I64(unit.k * unit.left.bytes)]
                builder.call(self.copier, words)
        return builder.select(self.copies, scratch, there)

    def expect_end(self, i: ir.Value) -> None:
        """Say where the ends of row `i` and those after it lie, if they do not where the rows do."""
        context, builder = self.context, self.context.builder
        if not context.unit.reads_ends:
            return
        end: ir.Value = I64(0)
        if context.shape.copies_a:
            offset = builder.mul(i, I64(context.unit.k * context.unit.left.bytes))
            place = builder.ptrtoint(move(builder, context.at("rows_offset"), offset), I64)
            end = builder.select(self.ends, place, end)
        context.frame.set("a_end", end)

    def _pack(self, rows: ir.Value) -> None:
        context, builder, source = self.context, self.context.builder, self.start
        panel_bytes = context.panel_bytes(self.height, context.unit.left.bytes)

        def panel(i: ir.Value, carried: Values) -> Values:
            count = smaller(builder, I64(self.height), builder.sub(rows, i))
            first = move(builder, source, builder.mul(i, self.row_stride))
            arguments = [first, self.row_stride, self.k_stride, count, context.word["k"], carried[0]]
            builder.call(self.packer, arguments)
            return [move(builder, carried[0], panel_bytes)]

        counted_loop(builder, I64(0), rows, I64(self.height), [context.at("a_offset")], panel)

    def address(self, i: ir.Value, k: ir.Value) -> ir.Value:
        """What a micro-kernel reads row `i` of the block through, from column k on: whole segments or panel depths."""
        context, builder = self.context, self.context.builder
        size = context.unit.left.bytes
        in_place = builder.add(builder.mul(i, self.row_stride), builder.mul(k, self.k_stride))
        if not (context.shape.indirect or context.shape.packs_a):
            return move(builder, self.start, in_place)
        block, row = builder.udiv(i, I64(self.height)), builder.urem(i, I64(self.height))
        if context.shape.indirect:
            segments = builder.mul(block, builder.udiv(context.word["k"], self.segment))
            segments = builder.add(segments, builder.udiv(k, self.segment))
            entry = builder.add(builder.mul(segments, I64(self.height)), row)
            return move(builder, self.start, builder.mul(entry, I64(ADDRESS)))
        panel = builder.mul(block, context.panel_bytes(self.height, size))
        within = builder.add(builder.mul(row, I64(self.depth * size)), builder.mul(k, I64(self.height * size)))
        return move(builder, self.start, builder.select(self.packs, builder.add(panel, within), in_place))
