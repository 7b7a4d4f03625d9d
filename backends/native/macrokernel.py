"""The macro-kernel: the loops over items, panels, K blocks and rows around the micro-kernels of one GEMM kernel.

    item (batch, m range, n range) > M block > B panel > K block > rows > micro-kernel

A is read in place (or gathered into scratch), so a block of rows, which L2 holds, passes once for every B panel. While
it does, the next panel is prefetched a line a k-step: spread over the rows, it arrives from memory without a burst.
With several K blocks the partial accumulators wait in scratch and are resumed, so every element stays one chain over
ascending k.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.epilogue import Epilogue
from backends.native.frame import Frame, move
from backends.native.gather import define_gatherer, window_word_count
from backends.native.gemv import panel_groups
from backends.native.indirect import ADDRESS, define_row_table
from backends.native.kernel import I8, I64, ArgumentReader, declare_kernel
from backends.native.loops import Values, chunk_range, counted_loop, smaller
from backends.native.microkernel import MicroKernel, for_row_blocks
from backends.native.pack import Panel, define_panel_packer
from backends.native.units import Grid, MatrixUnit
from backends.native.vectors import I1, constant
from compiler.kernels import GemmSpec

# The argument words before the operands, in order. Offsets are of scratch, in bytes.
HEADER = ("items", "items_per_chunk", "m_items", "n_items", "item_rows", "item_columns", "block_rows", "m", "n", "k",
          "depth", "pack_b", "b_offset", "b_step", "gather_offset", "a_offset", "tile_step", "segment")  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What shapes a GEMM kernel's code besides its spec. `rows`: row counts micro-kernels exist for, descending;
    `narrow`: columns of the micro-kernels for the last panel (the grid's own if nothing is known of it); `small`:
    whether there is a path for few rows; `packs_a`: whether blocks of A are packed into panels; `indirect`: whether a
    window's rows are read where they lie, through a table, instead of gathered."""

    grid: Grid
    rows: tuple[int, ...]
    narrow: int
    small: bool
    packs_a: bool
    indirect: bool


class MacroKernel:
    """Emits one kernel function and its helpers into a module."""

    def __init__(self, module: ir.Module, name: str, spec: GemmSpec, unit: MatrixUnit, shape: Shape) -> None:
        self.module, self.name, self.spec, self.unit, self.shape = module, name, spec, unit, shape
        (self.height, self.a_depth), (self.width, self.b_depth) = unit.panels(shape.grid)
        self.epilogue = Epilogue.of(spec, unit.n)
        self.function = declare_kernel(module, name)
        self.builder = builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        reader = ArgumentReader(builder, self.function)
        self.word = {field: reader.integer(field) for field in HEADER}
        self.window = builder.gep(self.function.args[0], [I64(len(HEADER))])
        for _ in range(window_word_count(spec.window)):
            reader.integer()
        self.a, self.a_row, self.a_k = reader.pointer(I8), reader.integer("a_row"), reader.integer("a_k")
        self.b = reader.pointer(I8)
        self.b_k = None if spec.constant_b else reader.integer("b_k")
        self.b_n = None if spec.constant_b else reader.integer("b_n")
        self.frame = Frame.allocate(builder, len(self.epilogue.members))
        self.members = []
        for number, _ in enumerate(self.epilogue.members):
            self.members.append(reader.pointer(I8))
            self.frame.set_strides(number, reader.integer(), reader.integer())
        operands = 2 + len(self.members)
        self.batch = [[reader.integer() for _ in range(1 + operands)] for _ in range(spec.batch_rank)]
        self._define_helpers()

    def _define_helpers(self) -> None:
        spec, unit = self.spec, self.unit
        if self.shape.indirect:
            self.row_table = define_row_table(self.module, f"{self.name}_rows", spec.window, self.height)
        elif spec.window:
            self.gather = define_gatherer(self.module, f"{self.name}_gather", spec.window, spec.a, unit.n)
        if self.shape.packs_a:
            axis = "k" if spec.window else {"row": "k", "column": "x"}.get(spec.a_axis, "")
            panel = Panel(spec.a, self.height, self.a_depth, unit.n)
            self.a_packer = define_panel_packer(self.module, f"{self.name}_pack_a", panel, axis)
        if not spec.constant_b:
            axis = {"row": "x", "column": "k"}.get(spec.b_axis, "")
            panel = Panel(spec.b, self.width, self.b_depth, unit.n)
            self.b_packer = define_panel_packer(self.module, f"{self.name}_pack_b", panel, axis)
        self.finish = self.epilogue.define(self.module, f"{self.name}_epilogue")
        self._micro: dict[str, tuple[MicroKernel, ir.Function]] = {}

    def micro(self, rows: int, columns: int, panels: int) -> tuple[MicroKernel, ir.Function]:
        """The micro-kernel of that size, defined on first use."""
        fresh, height = not self.spec.constant_b, self.height if self.shape.indirect else 0
        what = MicroKernel(self.unit, self.epilogue, rows, columns, panels, self.width, self.b_depth, fresh, height)
        if what.name not in self._micro:
            self._micro[what.name] = what, what.define(self.module, f"{self.name}_{what.name}")
        return self._micro[what.name]

    def emit(self) -> None:
        """The kernel's body."""
        builder, word = self.builder, self.word
        first, stop = chunk_range(builder, self.function.args[2], word["items_per_chunk"], word["items"])
        self.unit.enter(builder)
        self._set_frame()
        if self.shape.indirect:
            self._clear_zeros()
        counted_loop(builder, first, stop, I64(1), [], self._item)
        self.unit.leave(builder)
        builder.ret_void()

    def _set_frame(self) -> None:
        builder, unit, frame = self.builder, self.unit, self.frame
        # A window without channels has no segments, and nothing may divide by their length.
        empty = builder.icmp_signed("==", self.word["segment"], I64(0))
        self.segment = builder.select(empty, I64(1), self.word["segment"])
        frame.set("segment", self.segment)
        if self.shape.packs_a:
            frame.set("a_k", I64(self.height * unit.k * unit.a.bytes))
            frame.set("a_row", I64(self.a_depth * unit.a.bytes))
        else:
            frame.set("a_k", builder.mul(self.a_k, I64(unit.k)))
            frame.set("a_row", self.a_row)
        if self.spec.constant_b:
            self.panel_bytes = self._panel_bytes(self.width, self.b_depth, unit.b.bytes)
            frame.set("b_panel", self.panel_bytes)
        else:
            frame.set("b_k", self.b_k)
            frame.set("b_panel", I64(self.width * unit.b.bytes))

    def _zeros(self) -> ir.Value:
        return move(self.builder, self.function.args[3], self.word["a_offset"])

    def _clear_zeros(self) -> None:
        """The row that stands for padding."""
        builder, zeros = self.builder, self._zeros()
        zero = constant(self.unit.acc_type, 0)

        def clear(i: ir.Value, _: Values) -> Values:
            address = move(builder, zeros, builder.mul(i, I64(self.unit.a.bytes)))
            builder.store(zero, builder.bitcast(address, zero.type.as_pointer()), align=self.unit.a.bytes)
            return []

        counted_loop(builder, I64(0), self.word["segment"], I64(self.unit.n), [], clear)

    def _panel_bytes(self, width: int, depth: int, size: int) -> ir.Value:
        """Bytes of a packed panel: K rounded up to the panel's depth."""
        builder = self.builder
        blocks = builder.udiv(builder.add(self.word["k"], I64(depth - 1)), I64(depth))
        return builder.mul(blocks, I64(width * depth * size))

    def _item(self, item: ir.Value, _: Values) -> Values:
        """A range of rows and columns of one matrix of the batch. M ranges are innermost: neighbours share B."""
        builder, word = self.builder, self.word
        m_block, rest = builder.urem(item, word["m_items"]), builder.udiv(item, word["m_items"])
        n_block, batch = builder.urem(rest, word["n_items"]), builder.udiv(rest, word["n_items"])
        self.m_first, self.n0 = builder.mul(m_block, word["item_rows"]), builder.mul(n_block, word["item_columns"])
        m_end = smaller(builder, word["m"], builder.add(self.m_first, word["item_rows"]))
        self.n_end = smaller(builder, word["n"], builder.add(self.n0, word["item_columns"]))
        a, b, *members = self._batch_bases(batch)
        for number, base in enumerate(members):
            self.frame.set_base(number, base)
        self.item_b = b

        def block(m: ir.Value, _: Values) -> Values:
            self.m0, self.rows = m, smaller(builder, word["block_rows"], builder.sub(m_end, m))
            self.block_a = self._block_rows(a)
            self._panels()
            return []

        counted_loop(builder, self.m_first, m_end, word["block_rows"], [], block)
        return []

    def _batch_bases(self, batch: ir.Value) -> list[ir.Value]:
        builder = self.builder
        bases = [self.a, self.b, *self.members]
        for extent, *strides in reversed(self.batch):
            index, batch = builder.urem(batch, extent), builder.udiv(batch, extent)
            bases = [
                move(builder, base, builder.mul(index, stride)) for base, stride in zip(bases, strides, strict=True)
            ]
        return bases

    def _block_rows(self, a: ir.Value) -> ir.Value:
        """The address of the block's first row of A, gathered or packed if need be."""
        builder = self.builder
        if self.shape.indirect:
            table = move(builder, self.function.args[3], self.word["gather_offset"])
            builder.call(self.row_table, [self.window, a, self.m0, self.rows, self._zeros(), table])
            return table
        if self.spec.window:
            rows = move(builder, self.function.args[3], self.word["gather_offset"])
            builder.call(self.gather, [self.window, a, self.m0, self.rows, rows])
        else:
            rows = move(builder, a, builder.mul(self.m0, self.a_row))
        return self._packed_rows(rows) if self.shape.packs_a else rows

    def _packed_rows(self, rows: ir.Value) -> ir.Value:
        builder = self.builder
        panel_bytes = self._panel_bytes(self.height, self.a_depth, self.unit.a.bytes)
        scratch = move(builder, self.function.args[3], self.word["a_offset"])

        def panel(i: ir.Value, carried: Values) -> Values:
            count = smaller(builder, I64(self.height), builder.sub(self.rows, i))
            source = move(builder, rows, builder.mul(i, self.a_row))
            builder.call(self.a_packer, [source, self.a_row, self.a_k, count, self.word["k"], carried[0]])
            return [move(builder, carried[0], panel_bytes)]

        counted_loop(builder, I64(0), self.rows, I64(self.height), [scratch], panel)
        return scratch

    def a_address(self, i: ir.Value, k: ir.Value) -> ir.Value:
        """Where row i of the block lies, from column k on (a multiple of the panels' depth where packed)."""
        builder, unit = self.builder, self.unit
        if self.shape.indirect:
            segments = builder.mul(builder.udiv(i, I64(self.height)), builder.udiv(self.word["k"], self.segment))
            segments = builder.add(segments, builder.udiv(k, self.segment))
            entry = builder.add(builder.mul(segments, I64(self.height)), builder.urem(i, I64(self.height)))
            return move(builder, self.block_a, builder.mul(entry, I64(ADDRESS)))
        if not self.shape.packs_a:
            offset = builder.add(builder.mul(i, self.a_row), builder.mul(k, self.a_k))
            return move(builder, self.block_a, offset)
        panel = builder.mul(
            builder.udiv(i, I64(self.height)), self._panel_bytes(self.height, self.a_depth, unit.a.bytes)
        )
        row = builder.mul(builder.urem(i, I64(self.height)), I64(self.a_depth * unit.a.bytes))
        column = builder.mul(k, I64(self.height * unit.a.bytes))
        return move(builder, self.block_a, builder.add(panel, builder.add(row, column)))

    def _panels(self) -> None:
        builder, word, width = self.builder, self.word, I64(self.width)
        row_blocks = builder.udiv(builder.add(self.rows, I64(self.shape.rows[0] - 1)), I64(self.shape.rows[0]))
        step = builder.udiv(I64(self.width * self.unit.k * self.unit.b.bytes), row_blocks)
        if not self.spec.constant_b:
            # Only panels kept from an earlier block lie ahead in memory.
            first = builder.icmp_signed("==", self.m0, self.m_first)
            unkept = builder.icmp_signed("==", word["b_step"], I64(0))
            step = builder.select(builder.or_(first, unkept), I64(0), step)
        self.prefetch_step = step
        self.frame.set("prefetch_step", step)
        start = panel_groups(self) if self.shape.small else self.n0
        counted_loop(builder, start, self.n_end, width, [], self._panel)

    def _panel(self, n: ir.Value, _: Values) -> Values:
        """All rows of the block against the panel at column n, K block by K block."""
        builder, word = self.builder, self.word
        valid = smaller(builder, I64(self.width), builder.sub(self.n_end, n))
        # A product over nothing still has an epilogue: one empty K block.
        end = builder.select(builder.icmp_signed(">", word["k"], I64(0)), word["k"], I64(1))

        def block(k: ir.Value, _: Values) -> Values:
            depth = smaller(builder, word["depth"], builder.sub(word["k"], k))
            last = builder.icmp_signed(">=", builder.add(k, word["depth"]), word["k"])
            b = self._panel_address(n, k, valid, depth)
            if self.shape.narrow == self.shape.grid.columns:
                self._row_blocks(n, k, valid, depth, b, last, self.shape.grid.columns)
                return []
            is_narrow = builder.icmp_signed("<=", valid, I64(self.shape.narrow * self.unit.n))
            with builder.if_else(is_narrow) as (narrow, whole):
                with narrow:
                    self._row_blocks(n, k, valid, depth, b, last, self.shape.narrow)
                with whole:
                    self._row_blocks(n, k, valid, depth, b, last, self.shape.grid.columns)
            return []

        counted_loop(builder, I64(0), end, word["depth"], [], block)
        return []

    def panel_start(self, n: ir.Value, k: ir.Value) -> ir.Value:
        """Where the panel at column n begins, from row k on: packed ahead, or inside a fresh B."""
        builder, unit = self.builder, self.unit
        if not self.spec.constant_b:
            return move(builder, self.item_b, builder.add(builder.mul(n, self.b_n), builder.mul(k, self.b_k)))
        panel = builder.mul(builder.udiv(n, I64(self.width)), self.panel_bytes)
        return move(builder, self.item_b, builder.add(panel, builder.mul(k, I64(self.width * unit.b.bytes))))

    def _panel_address(self, n: ir.Value, k: ir.Value, valid: ir.Value, depth: ir.Value) -> ir.Value:
        """The panel for the micro-kernels; a fresh one is packed for the item's first block, or read in place."""
        builder = self.builder
        there = self.panel_start(n, k)
        if self.spec.constant_b:
            return there
        partial = builder.icmp_signed("<", valid, I64(self.width))
        packs = builder.or_(partial, builder.icmp_signed("!=", self.word["pack_b"], I64(0)))
        panel = builder.udiv(builder.sub(n, self.n0), I64(self.width))
        offset = builder.add(self.word["b_offset"], builder.mul(panel, self.word["b_step"]))
        offset = builder.add(offset, builder.mul(k, I64(self.width * self.unit.b.bytes)))
        scratch = move(builder, self.function.args[3], offset)
        first = builder.icmp_signed("==", self.m0, self.m_first)
        stale = builder.or_(first, builder.icmp_signed("==", self.word["b_step"], I64(0)))
        with builder.if_then(builder.and_(packs, stale)):
            builder.call(self.b_packer, [there, self.b_n, self.b_k, valid, depth, scratch])
        packed_step = I64(self.width * self.b_depth * self.unit.b.bytes)
        self.frame.set("b_k", builder.select(packs, packed_step, self.b_k))
        return builder.select(packs, scratch, there)

    def _row_blocks(
        self, n: ir.Value, k: ir.Value, valid: ir.Value, depth: ir.Value, b: ir.Value, last: ir.Value, columns: int
    ) -> None:
        builder = self.builder
        whole = builder.and_(last, builder.icmp_signed("==", valid, I64(self.width)))
        resume = builder.icmp_signed(">", k, I64(0))
        following = move(builder, b, builder.mul(depth, I64(self.width * self.unit.b.bytes)))

        def call(rows: int, i: ir.Value, count: ir.Value) -> None:
            what, function = self.micro(rows // self.unit.m, columns, 1)
            tile = move(builder, self.function.args[3], builder.mul(i, self.word["tile_step"]))
            finish = builder.and_(whole, builder.icmp_signed("==", count, I64(rows))) if what.direct else I1(0)
            block = builder.udiv(i, I64(self.shape.rows[0]))
            prefetch = move(builder, following, builder.mul(builder.mul(block, depth), self.prefetch_step))
            m, a = builder.add(self.m0, i), self.a_address(i, k)
            builder.call(function, [self.frame.words, a, b, depth, tile, resume, finish, prefetch, m, n])
            with builder.if_then(builder.and_(last, builder.not_(finish))):
                builder.call(self.finish, [self.frame.words, tile, I64(what.tile_row), count, valid, m, n])

        for_row_blocks(builder, self.rows, self.shape.rows, call)
