"""The loops of a recurrence (see backends/native/recurrence.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I8, I64, ArgumentReader, declare_kernel
from backends.native.loops import Values, chunk_range, counted_loop, smaller
from backends.native.pack import Panel, define_panel_packer
from backends.native.recurrence_cell import Row, RowEmitter
from backends.native.recurrence_product import Matrix, Products, ProductShape, Sums
from backends.native.units import MatrixUnit
from backends.native.vectors import llvm_type
from compiler.recurrence import RecurrenceSpec

PACKER_AXIS = {"row": "x", "column": "k", "general": ""}


@dataclass(frozen=True)
class Place:
    """An operand or a piece of scratch: where it begins, and byte strides as its use has them."""

    base: ir.Value
    strides: tuple[ir.Value, ...]

    def at(self, builder: ir.IRBuilder, *indices: ir.Value) -> ir.Value:
        """The address at some leading indices."""
        address = self.base
        for i, stride in zip(indices, self.strides, strict=False):
            address = move(builder, address, builder.mul(i, stride))
        return address


class RecurrenceEmission:
    """Emits one recurrence kernel; words as RecurrenceKernel.arguments lists them."""

    def __init__(
        self, spec: RecurrenceSpec, shapes: Sequence[ProductShape], unit: MatrixUnit, module: ir.Module, name: str
    ) -> None:
        self.spec, self.shapes, self.unit = spec, shapes, unit
        function = declare_kernel(module, name)
        _, _, self.chunk, self.scratch = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.rows = RowEmitter(self.builder, spec.dtype, unit.n)
        self.products = [Products(module, f"{name}_{i}", unit, shape) for i, shape in enumerate(shapes)]
        panel = Panel(spec.dtype, unit.n, 1, unit.n)
        self.packers = [
            None if axis == "constant" else define_panel_packer(module, f"{name}_pack_{i}", panel, PACKER_AXIS[axis])
            for i, axis in enumerate(spec.matrices)
        ]
        self._read_arguments(ArgumentReader(self.builder, function))

    def _read_arguments(self, reader: ArgumentReader) -> None:
        spec = self.spec

        def operand(strides: int) -> Place:
            return Place(reader.pointer(I8), tuple(reader.integer() for _ in range(strides)))

        def scratch(strides: int) -> Place:
            return Place(
                move(self.builder, self.scratch, reader.integer()), tuple(reader.integer() for _ in range(strides))
            )

        self.items, self.per_chunk, self.row_blocks, self.block_rows, self.steps, self.batch, self.backward = (
            reader.integer() for _ in range(7)
        )
        self.x = operand(4)
        self.lengths = operand(1) if spec.lengths is not None else None
        # Of a matrix: direction; and, where it is packed here, K, gate and N.
        self.given = [operand(1 if axis == "constant" else 4) for axis in spec.matrices]
        self.first = [operand(2) if given else None for given in spec.initial]
        self.parameters = [operand(1) for _ in range(spec.parameters)]
        self.y = operand(3)
        self.last = [operand(2) for _ in range(spec.states)]
        self.sizes = [tuple(reader.integer() for _ in range(3)) for _ in spec.phases]  # K, N, panels
        self.live = scratch(0)
        self.vectors = [scratch(1) for _ in range(spec.vectors)]
        self.sums = [scratch(2) for _ in spec.phases]
        self.packed = [scratch(0) if axis != "constant" else None for axis in spec.matrices]
        self.widths = {t: size[1] for p, size in zip(spec.phases, self.sizes, strict=True) for t in p.targets}

    def emit(self) -> None:
        """The whole kernel."""
        builder = self.builder
        first, last = chunk_range(builder, self.chunk, self.per_chunk, self.items)

        def item(number: ir.Value, _: Values) -> Values:
            direction, block = builder.udiv(number, self.row_blocks), builder.urem(number, self.row_blocks)
            start = builder.mul(block, self.block_rows)
            count = smaller(builder, self.block_rows, builder.sub(self.batch, start))
            self._item(direction, start, count)
            return []

        counted_loop(builder, first, last, I64(1), [], item)
        builder.ret_void()

    def _item(self, direction: ir.Value, start: ir.Value, count: ir.Value) -> None:
        """All steps of `count` rows from `start` on in one direction."""
        builder, spec = self.builder, self.spec
        matrices = [self._matrix(i, direction) for i in range(len(spec.phases))]
        for state, place in enumerate(self.first):
            self._copy_rows(place, self.vectors[state], direction, start, count, self.widths[state])
        longest = self._row_lengths(start, count)
        backward = builder.trunc(builder.lshr(self.backward, direction), ir.IntType(1))

        def step(number: ir.Value, _: Values) -> Values:
            back = builder.sub(builder.sub(self.steps, I64(1)), number)
            t = builder.select(backward, back, number)
            with builder.if_else(builder.icmp_signed("<", t, longest)) as (some, none):
                with some:
                    self._step(t, direction, start, count, matrices)
                with none:
                    self._for_rows(count, lambda r: self._no_output(t, direction, builder.add(start, r)))
            return []

        counted_loop(builder, I64(0), self.steps, I64(1), [], step)
        for state, place in enumerate(self.last):
            self._copy_rows(self.vectors[state], place, direction, start, count, self.widths[state])

    def _matrix(self, phase: int, direction: ir.Value) -> Matrix:
        """A phase's matrix of one direction in panels: packed ahead, or into scratch here."""
        builder, unit, place, packed = self.builder, self.unit, self.given[phase], self.packed[phase]
        depth, columns, panels = self.sizes[phase]
        register = I64(unit.n * unit.b.bytes)
        gate = builder.mul(depth, register)
        panel = builder.mul(gate, I64(self.shapes[phase].gates))
        base = place.at(builder, direction)
        if packed is None:
            return Matrix(base, panel, gate, depth, panels)
        _, k_stride, gate_stride, n_stride = place.strides

        def pack(n: ir.Value, _: Values) -> Values:
            number = builder.udiv(n, I64(unit.n))
            xs = smaller(builder, I64(unit.n), builder.sub(columns, n))
            for g in range(self.shapes[phase].gates):
                source = move(builder, base, builder.mul(n, n_stride))
                source = move(builder, source, builder.mul(gate_stride, I64(g)))
                target = move(builder, packed.base, builder.mul(number, panel))
                target = move(builder, target, builder.mul(gate, I64(g)))
                builder.call(self.packers[phase], [source, n_stride, k_stride, xs, depth, target])
            return []

        counted_loop(builder, I64(0), columns, I64(unit.n), [], pack)
        return Matrix(packed.base, panel, gate, depth, panels)

    def _copy_rows(
        self,
        source: Place | None,
        target: Place,
        direction: ir.Value,
        start: ir.Value,
        count: ir.Value,
        columns: ir.Value,
    ) -> None:
        """Rows between scratch (row r) and an operand (direction, row start + r), either way; no source means zeros."""
        builder = self.builder

        def row(place: Place, r: ir.Value) -> ir.Value:
            inside = len(place.strides) == 1
            return place.at(builder, r) if inside else place.at(builder, direction, builder.add(start, r))

        self._for_rows(
            count, lambda r: self.rows.copy(None if source is None else row(source, r), row(target, r), columns)
        )

    def _for_rows(self, count: ir.Value, body: Callable[[ir.Value], None]) -> None:
        def one(r: ir.Value, _: Values) -> Values:
            body(r)
            return []

        counted_loop(self.builder, I64(0), count, I64(1), [], one)

    def _row_lengths(self, start: ir.Value, count: ir.Value) -> ir.Value:
        """Put the rows' lengths into scratch; the longest. Without lengths every row has all steps."""
        builder, lengths = self.builder, self.lengths
        if lengths is None:
            return self.steps
        dtype = self.spec.lengths
        assert dtype is not None

        def one(r: ir.Value, carried: Values) -> Values:
            address = lengths.at(builder, builder.add(start, r))
            length = builder.load(builder.bitcast(address, llvm_type(dtype).as_pointer()), align=dtype.bytes)
            length = builder.sext(length, I64) if dtype.bits < 64 else length
            builder.store(length, self._live(r))
            return [builder.select(builder.icmp_signed(">", length, carried[0]), length, carried[0])]

        return counted_loop(builder, I64(0), count, I64(1), [I64(0)], one)[0]

    def _live(self, r: ir.Value) -> ir.Value:
        return self.builder.gep(self.builder.bitcast(self.live.base, I64.as_pointer()), [r])

    def _step(
        self, t: ir.Value, direction: ir.Value, start: ir.Value, count: ir.Value, matrices: Sequence[Matrix]
    ) -> None:
        builder, spec = self.builder, self.spec
        x, y = self.x.at(builder, t, direction, start), self.y.at(builder, t, direction, start)
        parameters = [place.at(builder, direction) for place in self.parameters]
        for number, phase in enumerate(spec.phases):
            source, sums = self.vectors[phase.source], self.sums[number]
            out = Sums(sums.base, *sums.strides)
            self.products[number].emit(builder, source.base, source.strides[0], count, matrices[number], out)

            def cell(r: ir.Value, number: int = number, out: Sums = out) -> None:
                phase = spec.phases[number]
                first = move(builder, x, builder.mul(r, self.x.strides[2]))
                total = move(builder, out.base, builder.mul(r, out.row))
                row = Row(
                    [move(builder, first, builder.mul(self.x.strides[3], I64(i))) for i in range(spec.blocks)],
                    [place.at(builder, r) for place in self.vectors],
                    parameters,
                    [move(builder, total, builder.mul(out.gate, I64(g))) for g in range(phase.gates)],
                    move(builder, y, builder.mul(r, self.y.strides[2])),
                )
                if spec.lengths is None:
                    self.rows.cell(phase, row, self.sizes[number][1])
                    return
                going = builder.icmp_signed("<", t, builder.load(self._live(r)))
                with builder.if_else(going) as (yes, no):
                    with yes:
                        self.rows.cell(phase, row, self.sizes[number][1])
                    with no:
                        if 0 in phase.targets:
                            self.rows.copy(None, row.y, self.widths[0])

            self._for_rows(count, cell)

    def _no_output(self, t: ir.Value, direction: ir.Value, row: ir.Value) -> None:
        self.rows.copy(None, self.y.at(self.builder, t, direction, row), self.widths[0])
