"""The micro-kernel: one grid of accumulators over one K block, generated from a unit.

A is read where it lies, through a row stride and a K stride, B from panels of the unit's width (packed, or rows of a
row-major B). With more than one panel side by side (small M) the grid is as many panels wide, to have enough
independent chains. The loop is not unrolled: a k-step is a dozen cycles of multiply-adds, and its overhead hides in
the spare issue slots (measured: no gain from unrolling).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from llvmlite import ir

from backends.native.deferred import Deferred
from backends.native.epilogue import Epilogue, row_of
from backends.native.frame import FRAME, Frame, move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import counted_loop, when
from backends.native.prefetch import CACHE_LINE, prefetch_line
from backends.native.units import MatrixUnit
from backends.native.vectors import I1, llvm_type

ARGUMENTS = (FRAME, POINTER, POINTER, I64, POINTER, POINTER, I1, I1, I1, POINTER, I64, I64)


@dataclass(frozen=True)
class MicroKernel:
    """A grid of `rows` mma rows and `columns` mma columns in each of `panels` neighbouring B panels, `width` elements
    wide and `depth` deep each. `fresh`: B's K stride comes from the frame. `height`: `a` is a table of addresses
    of so many rows for each segment of K (see indirect), or 0. `readers`: how many micro-kernels share the
    prefetching of a panel, at least. `deferred`: what is told of tiles that earlier ones left, and finishes them."""

    unit: MatrixUnit
    epilogue: Epilogue
    rows: int
    columns: int
    panels: int
    width: int
    depth: int
    fresh: bool
    height: int
    readers: int
    deferred: Deferred | None

    @property
    def name(self) -> str:
        """Unique among the micro-kernels of one kernel."""
        return f"{self.rows * self.unit.m}x{self.columns * self.unit.n}x{self.panels}"

    @property
    def lines(self) -> int:
        """Lines of B to prefetch a k-step: a share of what it reads. Panels of a fresh B read in place lie side by
        side."""
        panels = self.panels if self.fresh else 1
        whole = -(-panels * self.columns * self.unit.n * self.unit.k * self.unit.right.bytes // CACHE_LINE)
        return -(-whole // self.readers)

    @property
    def tile_row(self) -> int:
        """Bytes from row to row of the tile it leaves."""
        return self.panels * self.width * self.unit.acc.bytes

    @property
    def direct(self) -> bool:
        """Whether it can finish whole tiles itself: from registers a short epilogue, which stands there once for every
        row; of numbered tiles any, in a loop over rows, where they need not go through memory anyway."""
        short = self.epilogue.direct if self.unit.acc_type is not None else self.unit.gives_rows
        return short and self.columns * self.unit.n == self.width

    def define(self, module: ir.Module, name: str) -> ir.Function:
        """void name(frame, a, b, depth, tile, target, resume, adds, finish, prefetch, m, n).

        Multiplies rows at `a` with panels at `b` over `depth`, from zero or (`resume`) from the tile's contents; then
        leaves a tile at `target`, or adds to the one there (`adds`), or with `finish` (only if `direct`) applies the
        epilogue for the element (m, n) of C on.
        """
        function, builder = define_helper(module, name, ARGUMENTS, (*self.unit.mode, *self.unit.tuning))
        words, a, b, depth, tile, target, resume, adds, finish, prefetch, m, n = function.args
        frame = Frame(builder, words)
        accs = self._start(builder, frame, depth, tile, resume, n)
        if self.direct and self.unit.acc_type is not None:
            with builder.if_then(finish):
                self._expect_results(builder, frame, m, n)
        accs = self._multiply(builder, frame, accs, a, b, depth, prefetch)
        if self.direct:
            with builder.if_else(finish) as (done, left):
                with done:
                    self._finish(builder, frame, accs, m, n)
                with left:
                    self._leave(builder, accs, tile, target, adds)
        else:
            self._leave(builder, accs, tile, target, adds)
        builder.ret_void()
        return function

    def _cells(self) -> list[tuple[int, int]]:
        """(row, column) of every accumulator, in order."""
        return [(i, j) for i in range(self.rows) for j in range(self.panels * self.columns)]

    def _column(self, j: int) -> int:
        """The element column that accumulator column j begins at."""
        panel, column = divmod(j, self.columns)
        return panel * self.width + column * self.unit.n

    def _tile_offset(self, i: int, j: int) -> int:
        return i * self.unit.m * self.tile_row + self._column(j) * self.unit.acc.bytes

    def _start(
        self, builder: ir.IRBuilder, frame: Frame, depth: ir.Value, tile: ir.Value, resume: ir.Value, n: ir.Value
    ) -> list[ir.Value | int]:
        cells = list(enumerate(self._cells()))
        unit = self.unit

        def stored() -> list[ir.Value | int]:
            return [unit.resume(builder, c, move(builder, tile, I64(self._tile_offset(i, j))), self.tile_row)
                    for c, (i, j) in cells]  # fmt: skip

        def cleared() -> list[ir.Value | int]:
            if not unit.compensation:
                return [unit.zero(builder, c) for c, _ in cells]
            size = unit.acc.bytes
            sums = move(builder, builder.inttoptr(frame.get("column_sums"), POINTER), builder.mul(n, I64(size)))
            # Rows behind the last group multiply nothing, whatever the sums of the first group's B are.
            nothing = builder.icmp_signed("==", depth, I64(0))
            begun = [unit.start(builder, c, move(builder, sums, I64(self._column(j) * size))) for c, (_, j) in cells]
            zeros = [unit.zero(builder, c) for c, _ in cells]
            return [builder.select(nothing, zero, acc) for zero, acc in zip(zeros, begun, strict=True)]

        if unit.acc_type is not None:
            return list(when(builder, resume, stored, cleared))
        with builder.if_else(resume) as (yes, no):
            with yes:
                numbers = stored()
            with no:
                cleared()
        return numbers

    def _multiply(
        self,
        builder: ir.IRBuilder,
        frame: Frame,
        accs: list[ir.Value | int],
        a: ir.Value,
        b: ir.Value,
        depth: ir.Value,
        prefetch: ir.Value,
    ) -> list[ir.Value | int]:
        unit, wide = self.unit, self.panels * self.columns
        row_stride, k_stride = frame.get("a_row"), frame.get("a_k")
        group = frame.get("b_k") if self.fresh else I64(self.width * self.depth * unit.right.bytes)
        b_step = builder.mul(group, I64(unit.k // self.depth))
        panels = [builder.mul(frame.get("b_panel"), I64(p)) for p in range(self.panels)]
        prefetch_step = frame.get("prefetch_step")
        registers = accs if unit.acc_type is not None else []

        def step(rows: list[ir.Value], row_stride: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            position, panel, line, *current = carried
            current = current or accs

            def column(j: int) -> ir.Value:
                p, number = divmod(j, self.columns)
                base = move(builder, panel, panels[p])
                return move(builder, base, I64(number * unit.n * self.depth * unit.right.bytes))

            def expect() -> None:
                for number in range(self.lines):
                    prefetch_line(builder, move(builder, line, I64(number * CACHE_LINE)))

            left, right = (move(builder, row, position) for row in rows), (column(j) for j in range(wide))
            after = unit.step(builder, current, (left, row_stride), (right, group), expect)
            moved = [builder.add(position, k_stride), move(builder, panel, b_step), move(builder, line, prefetch_step)]
            return moved + (after if registers else [])

        def run(rows: list[ir.Value], length: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            def steps(start: ir.Value, stop: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
                return counted_loop(builder, start, stop, I64(unit.k), carried, lambda _, c: step(rows, row_stride, c))

            initial = [I64(0), *carried]
            if self.deferred is not None:
                return self.deferred.between(frame, length, unit.k, initial, steps)[1:]
            return steps(I64(0), length, initial)[1:]

        def segment(first: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            entry, *rest = carried
            rows = [builder.load(builder.gep(entry, [I64(i)])) for i in range(self.rows)]
            return [builder.gep(entry, [I64(self.height)]), *run(rows, frame.get("segment"), rest)]

        carried = [b, prefetch, *registers]
        if self.height:
            table = builder.bitcast(a, POINTER.as_pointer())
            carried = counted_loop(builder, I64(0), depth, frame.get("segment"), [table, *carried], segment)[1:]
        else:
            rows = [move(builder, a, builder.mul(row_stride, I64(i * unit.m))) for i in range(self.rows)]
            if not unit.reads_ends:
                carried = run(rows, depth, carried)
                return list(carried[2:]) if registers else accs
            end = frame.get("a_end")
            whole = builder.select(builder.icmp_signed("!=", end, I64(0)), builder.and_(depth, I64(-unit.k)), depth)
            run(rows, whole, carried)
            with builder.if_then(builder.icmp_signed("<", whole, depth)):
                pitch, first = unit.k * unit.left.bytes, builder.inttoptr(end, POINTER)
                ends = [move(builder, first, I64(pitch * i * unit.m)) for i in range(self.rows)]
                # Where the loop ended, found anew: kept, it would take a register and a move of each step.
                steps = builder.udiv(whole, I64(unit.k))
                moved = zip((b, prefetch), (b_step, prefetch_step), strict=True)
                step(ends, I64(pitch), [I64(0), *(move(builder, at, builder.mul(steps, by)) for at, by in moved)])
            return accs
        return list(carried[2:]) if registers else accs

    def _expect_results(self, builder: ir.IRBuilder, frame: Frame, m: ir.Value, n: ir.Value) -> None:
        """Ask for the lines results will be written to, all at once: stores retire one after the other, each waiting
        for its line from the last-level cache."""
        first = len(self.epilogue.inputs)
        width = self.panels * self.columns * self.unit.n
        for operand, stride in self.epilogue.operands(frame)[first : first + len(self.epilogue.stores)]:
            for i in range(self.rows * self.unit.m):
                row = builder.mul(builder.add(m, I64(i)), stride)
                start = builder.bitcast(operand.address(builder, row, n), POINTER)
                for line in range(0, width * operand.dtype.bytes, CACHE_LINE):
                    prefetch_line(builder, move(builder, start, I64(line)), write=True)

    def _finish(
        self, builder: ir.IRBuilder, frame: Frame, accs: list[ir.Value | int], m: ir.Value, n: ir.Value
    ) -> None:
        unit, operands = self.unit, self.epilogue.operands(frame)
        wide = self.panels * self.columns

        def finished(i: int, r: int | ir.Value) -> None:
            at = builder.add(m, builder.add(I64(i * unit.m), I64(r) if isinstance(r, int) else r))
            row = row_of(builder, operands, at)
            for j in range(wide):
                value = unit.row(builder, accs[i * wide + j], r)
                self.epilogue.apply(builder, frame, [value], [row], builder.add(n, I64(j * unit.n)), None)

        def numbered(i: int, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            finished(i, r)
            return []

        for i in range(self.rows):
            if unit.acc_type is None:
                counted_loop(builder, I64(0), I64(unit.m), I64(1), [], partial(numbered, i))
                continue
            for r in range(unit.m):
                finished(i, r)

    def _leave(
        self, builder: ir.IRBuilder, accs: list[ir.Value | int], tile: ir.Value, target: ir.Value, adds: ir.Value
    ) -> None:
        if not self.unit.acc.is_float:
            self._leave_tile(builder, accs, tile, target, adding=False)
            return
        with builder.if_else(adds, likely=False) as (more, all_there_is):
            with more:
                self._leave_tile(builder, accs, tile, target, adding=True)
            with all_there_is:
                self._leave_tile(builder, accs, tile, target, adding=False)

    def _leave_tile(
        self, builder: ir.IRBuilder, accs: list[ir.Value | int], chain: ir.Value, tile: ir.Value, adding: bool
    ) -> None:
        unit = self.unit
        if unit.acc_type is None:
            self._leave_numbered(builder, accs, chain, tile, adding)
            return
        for (i, j), acc in zip(self._cells(), accs, strict=True):
            for r in range(unit.m):
                address = move(builder, tile, I64(self._tile_offset(i, j) + r * self.tile_row))
                value = unit.row(builder, acc, r)
                typed = builder.bitcast(address, value.type.as_pointer())
                if adding:
                    value = builder.fadd(builder.load(typed, align=unit.acc.bytes), value)
                builder.store(value, typed, align=unit.acc.bytes)

    def _leave_numbered(
        self, builder: ir.IRBuilder, accs: list[ir.Value | int], chain: ir.Value, tile: ir.Value, adding: bool
    ) -> None:
        """Tiles go to memory whole; to be added, to where their chain lay while it waited, which nobody needs now."""
        unit, stored = self.unit, chain if adding else tile
        for (i, j), acc in zip(self._cells(), accs, strict=True):
            unit.store(builder, acc, move(builder, stored, I64(self._tile_offset(i, j))), self.tile_row)
        if not adding:
            return
        kind = ir.VectorType(llvm_type(unit.acc), unit.n).as_pointer()

        def row(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            for j in range(self.panels * self.columns):
                offset = builder.add(at, I64(self._tile_offset(0, j)))
                part, total = (builder.bitcast(move(builder, base, offset), kind) for base in (chain, tile))
                loaded = [builder.load(address, align=unit.acc.bytes) for address in (total, part)]
                builder.store(builder.fadd(*loaded), total, align=unit.acc.bytes)
            return []

        counted_loop(builder, I64(0), I64(self.rows * unit.m * self.tile_row), I64(self.tile_row), [], row)
