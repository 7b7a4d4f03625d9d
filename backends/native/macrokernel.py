"""The macro-kernel: the loops over items, panels, K blocks and rows around the micro-kernels of one GEMM kernel.

    item (batch, m range, n range) > M block > slab of K > B panel > K block > rows > micro-kernel

A is read in place (or gathered into scratch), so a block of rows, which L2 holds, passes once for every B panel. While
it does, the next panel is prefetched a line a k-step: spread over the rows, it arrives from memory without a burst.
With several K blocks the partial accumulators wait in scratch and are resumed, so every element stays one chain over
ascending k, up to the chunks that canonical.PRODUCT_CHUNK cuts float chains into: their sums are added up in scratch.
A slab is all of K, or where few rows meet a fresh row-major B, a few of its rows: then B is read nearly in the order it
lies in.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.deferred import Deferred
from backends.native.epilogue import Epilogue
from backends.native.form import HEADER, Context, Shape
from backends.native.frame import Frame, move
from backends.native.gather import window_word_count
from backends.native.gemv import panel_groups
from backends.native.grouped import RowGroups
from backends.native.kernel import I8, I64, ArgumentReader, declare_kernel
from backends.native.left import LeftOperand
from backends.native.loops import Values, chunk_range, counted_loop, smaller
from backends.native.microkernel import MicroKernel
from backends.native.microkernel_coded import CodedMicroKernel
from backends.native.outline import outlined
from backends.native.right import RightOperand
from backends.native.right_coded import CodedOperand
from backends.native.row_blocks import for_row_blocks
from backends.native.sums import COLUMN, ROW, needs_column_sums
from backends.native.units import Grid, MatrixUnit
from backends.native.vectors import I1
from compiler.canonical import PRODUCT_CHUNK
from compiler.kernels import GemmSpec


class MacroKernel:
    """Emits one kernel function and its helpers into a module."""

    def __init__(self, module: ir.Module, name: str, spec: GemmSpec, unit: MatrixUnit, shape: Shape) -> None:
        function = declare_kernel(module, name)
        _, _, self.chunk, scratch = function.args
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        reader = ArgumentReader(builder, function)
        word = {field: reader.integer(field) for field in HEADER}
        window = builder.gep(function.args[0], [I64(len(HEADER))])
        for _ in range(window_word_count(spec.window)):
            reader.integer()
        self.epilogue = Epilogue.of(spec, unit.n)
        sums = self.epilogue.sums
        frame = Frame.allocate(builder, len(self.epilogue.members))
        self.context = context = Context(module, name, spec, unit, shape, builder, word, scratch, frame)
        self.a = reader.pointer(I8)
        self.left = LeftOperand(context, reader.integer("a_row"), reader.integer("a_k"), window, ROW in sums)
        self.b = reader.pointer(I8)
        k, n = (None, None) if spec.constant_b else (reader.integer("b_k"), reader.integer("b_n"))
        self.right = RightOperand(context, k, n, needs_column_sums(spec, unit))
        if spec.codes is not None:
            scales, zeros = reader.pointer(I8), reader.pointer(I8)
            self.right = CodedOperand(context, scales, zeros, reader.integer("group"))
        self.members = []
        for number in range(len(self.epilogue.inputs) + len(self.epilogue.stores)):
            self.members.append(reader.pointer(I8))
            frame.set_strides(number, reader.integer(), reader.integer())
        for which in sums:
            step = I64(spec.acc.bytes) if which == ROW else I64(0)
            frame.set_strides(self.epilogue.sum_member(which), step, I64(1))
        self.batch = [[reader.integer() for _ in range(3 + len(self.members))] for _ in range(spec.batch_rank)]
        self.groups = RowGroups(reader, spec.ends, word["m"], word["k"]) if spec.ends else None
        self.finish = self.epilogue.define(module, f"{name}_epilogue", unit.mode)
        self.deferred = Deferred(module, f"{name}_advance", self.finish) if unit.finishes_late else None
        self._micro: dict[str, tuple[MicroKernel, ir.Function]] = {}

    def micro(self, rows: int, columns: int, panels: int) -> tuple[MicroKernel, ir.Function]:
        """The micro-kernel of that size, defined on first use."""
        context = self.context
        what = MicroKernel(
            context.unit, self.epilogue, rows, columns, panels, self.right.width, self.right.depth,
            fresh=not context.spec.constant_b, height=self.left.height if context.shape.indirect else 0,
            readers=context.shape.readers if rows == context.shape.grid.rows else 1, deferred=self.deferred,
        )  # fmt: skip
        return self._defined(what)

    def _defined(self, what: MicroKernel) -> tuple[MicroKernel, ir.Function]:
        if what.name not in self._micro:
            self._micro[what.name] = what, what.define(self.context.module, f"{self.context.name}_{what.name}")
        return self._micro[what.name]

    def micro_few(self, rows: int, panels: int) -> tuple[MicroKernel, ir.Function]:
        """The one for few rows and whole panels, which of codes decodes them as it reads them."""
        context, columns = self.context, self.context.shape.grid.columns
        if context.spec.codes is None:
            return self.micro(rows, columns, panels)
        assert isinstance(self.right, CodedOperand)
        what = CodedMicroKernel(
            context.unit, self.epilogue, rows, columns, panels, self.right.width, self.right.depth,
            fresh=False, height=0, readers=1, deferred=None, coding=self.right.coding,
        )  # fmt: skip
        return self._defined(what)

    def emit(self) -> None:
        """The kernel's body."""
        context, builder, word = self.context, self.context.builder, self.context.word
        first, stop = chunk_range(builder, self.chunk, word["items_per_chunk"], word["items"])
        if not context.unit.mode:
            context.unit.enter(builder)
        self.left.begin(self.members[context.spec.fill - 1] if context.spec.fill else None)
        self.right.begin()
        context.frame.set("k", word["k"])
        counted_loop(builder, first, stop, I64(1), [], self._item)
        if not context.unit.mode:
            context.unit.leave(builder)
        builder.ret_void()

    def _item(self, item: ir.Value, _: Values) -> Values:
        """A range of rows and columns of one matrix of the batch. M ranges are innermost: neighbours share B."""
        builder, word = self.context.builder, self.context.word
        m_item, rest = builder.urem(item, word["m_items"]), builder.udiv(item, word["m_items"])
        n_item, batch = builder.urem(rest, word["n_items"]), builder.udiv(rest, word["n_items"])
        m_first, self.n_first = builder.mul(m_item, word["item_rows"]), builder.mul(n_item, word["item_columns"])
        m_end = smaller(builder, word["m"], builder.add(m_first, word["item_rows"]))
        self.n_end = smaller(builder, word["n"], builder.add(self.n_first, word["item_columns"]))
        a, b, *members = self._batch_bases(batch)
        for number, base in enumerate(members):
            self.context.frame.set_base(number, base)
        if self.groups is None:
            self._rows(a, b, m_first, m_end)
            return []

        def group(offset: ir.Value, start: ir.Value, stop: ir.Value, depth: ir.Value) -> None:
            word["k"] = depth
            self._rows(a, move(builder, b, offset), start, stop)

        self.groups.each(builder, m_first, m_end, group)
        return []

    def _rows(self, a: ir.Value, b: ir.Value, m_first: ir.Value, m_end: ir.Value) -> None:
        """The item's columns of rows [m_first, m_end) of the matrix at `a`, times the matrix at `b`."""
        builder, word = self.context.builder, self.context.word
        self.right.item(b, self.n_first)
        if COLUMN in self.epilogue.sums:
            self.context.frame.set_base(self.epilogue.sum_member(COLUMN), self.right.column_sums)

        def block(m: ir.Value, _: Values) -> Values:
            self.m_first, self.rows = m, smaller(builder, word["block_rows"], builder.sub(m_end, m))
            self.left.block(a, m, self.rows)
            if ROW in self.epilogue.sums:
                sums = move(builder, self.context.at("row_sums"), builder.mul(m, I64(-self.context.unit.acc.bytes)))
                self.context.frame.set_base(self.epilogue.sum_member(ROW), sums)
            self._panels(builder.icmp_signed("==", m, m_first))
            return []

        counted_loop(builder, m_first, m_end, word["block_rows"], [], block)

    def _batch_bases(self, batch: ir.Value) -> list[ir.Value]:
        builder = self.context.builder
        bases = [self.a, self.b, *self.members]
        for extent, *strides in reversed(self.batch):
            index, batch = builder.urem(batch, extent), builder.udiv(batch, extent)
            bases = [move(builder, at, builder.mul(index, step)) for at, step in zip(bases, strides, strict=True)]
        return bases

    def _panels(self, is_first: ir.Value) -> None:
        """The rows of a block against every panel of the item."""
        builder, largest = self.context.builder, I64(self.context.shape.rows[0])
        row_blocks = builder.udiv(builder.add(self.rows, builder.sub(largest, I64(1))), largest)
        self.right.block(is_first, row_blocks)
        unit = self.context.unit
        if not unit.mode:
            self._multiply()
            return
        self._pack_panels()

        def inside() -> None:
            unit.enter(builder)
            self._multiply()
            unit.leave(builder)

        outlined(builder, f"{self.context.name}_panels", unit.switching, inside)

    def _pack_panels(self) -> None:
        """Every panel of a fresh B, all of K."""
        if self.context.spec.constant_b:
            return

        def one(n: ir.Value, _: Values) -> Values:
            self.right.pack(n, I64(0), self._valid(n), self.context.word["k"])
            return []

        counted_loop(self.context.builder, self.n_first, self.n_end, I64(self.right.width), [], one)

    def _valid(self, n: ir.Value) -> ir.Value:
        """Columns of the panel at column n that there are."""
        return smaller(self.context.builder, I64(self.right.width), self.context.builder.sub(self.n_end, n))

    def _multiply(self) -> None:
        """Slab by slab of K, every panel."""
        builder = self.context.builder
        start = panel_groups(self) if self.context.shape.few else self.n_first
        self.context.frame.set("prefetch_step", self.right.prefetch_step)
        # A product over nothing still has an epilogue: one empty K block.
        word = self.context.word
        end = builder.select(builder.icmp_signed(">", word["k"], I64(0)), word["k"], I64(1))

        def slab(k: ir.Value, _: Values) -> Values:
            stop = smaller(builder, end, builder.add(k, word["slab"]))
            counted_loop(builder, start, self.n_end, I64(self.right.width), [], lambda n, _: self._panel(n, k, stop))
            return []

        if self.deferred is None:
            counted_loop(builder, I64(0), end, word["slab"], [], slab)
            return
        self.deferred.nothing(self.context.frame)
        counted_loop(builder, I64(0), end, word["slab"], [], slab)
        self.deferred.all(self.context.frame)

    def _panel(self, n: ir.Value, start: ir.Value, stop: ir.Value) -> Values:
        """All rows of the block against rows [start, stop) of the panel at column n, K block by K block."""
        builder, word, shape = self.context.builder, self.context.word, self.context.shape
        valid = self._valid(n)

        def block(k: ir.Value, _: Values) -> Values:
            depth = smaller(builder, word["depth"], builder.sub(word["k"], k))
            last = builder.icmp_signed(">=", builder.add(k, word["depth"]), word["k"])
            b = self.right.panel(n, k, valid, depth)
            self._narrowest(shape.columns, valid, lambda c: self._row_blocks(n, k, valid, depth, b, last, c))
            return []

        counted_loop(builder, start, stop, word["depth"], [], block)
        return []

    def _narrowest(self, columns: tuple[int, ...], valid: ir.Value, body: Callable[[int], None]) -> None:
        """`body` with the least of the column counts that covers `valid` elements."""
        least, *others = columns
        if not others:
            body(least)
            return
        builder = self.context.builder
        fits = builder.icmp_signed("<=", valid, I64(least * self.context.unit.n))
        with builder.if_else(fits) as (narrow, wider):
            with narrow:
                body(least)
            with wider:
                self._narrowest(tuple(others), valid, body)

    def _row_blocks(
        self, n: ir.Value, k: ir.Value, valid: ir.Value, depth: ir.Value, b: ir.Value, last: ir.Value, columns: int
    ) -> None:
        """The micro-kernels down a panel, and the epilogues of tiles they leave with the last K block."""
        context, builder = self.context, self.context.builder
        words, counts = context.frame.words, context.shape.rows
        whole = builder.and_(last, builder.icmp_signed("==", valid, I64(self.right.width)))
        resume, ends, adds = self._place_in_chunk(k, depth, last)
        whole = builder.and_(whole, builder.not_(adds))
        total = builder.select(ends, context.word["total"], I64(0))
        number = builder.udiv(builder.sub(n, self.n_first), I64(self.right.width))
        tiles = move(builder, context.scratch, builder.mul(number, context.word["panel_step"]))

        def call(rows: int, i: ir.Value, count: ir.Value) -> None:
            what, function = self.micro(rows // context.unit.m, columns, 1)
            tile = move(builder, tiles, builder.mul(i, context.word["tile_step"]))
            target = move(builder, tile, total)
            finish = builder.and_(whole, builder.icmp_signed("==", count, I64(rows))) if what.direct else I1(0)
            prefetch = self.right.prefetch(b, depth, builder.udiv(i, I64(counts[0])))
            m, a = builder.add(self.m_first, i), self.left.address(i, k)
            limits = context.unit.limits_rows and not isinstance(count, ir.Constant)
            self.left.expect_end(i)
            if limits:
                context.unit.limit(builder, Grid(what.rows, what.columns), count)
            builder.call(function, [words, a, b, depth, tile, target, resume, adds, finish, prefetch, m, n])
            if limits:
                context.unit.enter(builder)
            with builder.if_then(builder.and_(last, builder.not_(finish))):
                tile = [target, I64(what.tile_row), count, valid, m, n]
                if self.deferred is None:
                    builder.call(self.finish, [words, *tile])
                else:
                    self.deferred.note(context.frame, *tile)

        for_row_blocks(builder, self.rows, counts, call)

    def _place_in_chunk(self, k: ir.Value, depth: ir.Value, last: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Of the K block at k: whether it goes on with a chain, ends one, and adds that to those before."""
        builder, chunk = self.context.builder, I64(PRODUCT_CHUNK)
        if not self.context.spec.acc.is_float:
            return builder.icmp_signed(">", k, I64(0)), last, I1(0)
        resume = builder.icmp_signed("!=", builder.urem(k, chunk), I64(0))
        full = builder.icmp_signed("==", builder.urem(builder.add(k, depth), chunk), I64(0))
        ends = builder.or_(last, full)
        return resume, ends, builder.and_(ends, builder.icmp_signed(">=", k, chunk))
