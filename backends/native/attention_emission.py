"""The loops of fused attention (see backends/native/attention.py)."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import read_operands
from backends.native.attention_products import define_product
from backends.native.attention_softmax import score_row, weigh_row
from backends.native.causal import GROUP
from backends.native.frame import move
from backends.native.kernel import I64, ArgumentReader, declare_kernel
from backends.native.loops import Odometer, Values, chunk_range, counted_loop, round_down, smaller
from backends.native.pack import Panel, define_panel_packer
from backends.native.units import MatrixUnit
from backends.native.vectors import (
    constant,
    llvm_type,
    load_vector,
    splat,
    store_vector,
    tail_mask,
)
from compiler.kernels import UNIT, AttentionSpec


@dataclass(frozen=True)
class Shape:
    """What shapes the code besides the spec: `rows` x `columns` accumulators of `unit`; the reach of a causal score."""

    unit: MatrixUnit
    rows: int
    columns: int
    reach: int | None

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.columns * self.unit.n


class AttentionEmission:
    """Emits one attention kernel; words as AttentionKernel.arguments lists them."""

    def __init__(self, spec: AttentionSpec, shape: Shape, module: ir.Module, name: str) -> None:
        self.spec, self.shape, self.unit, self.lanes = spec, shape, shape.unit, shape.unit.n
        function = declare_kernel(module, name)
        _, _, self.chunk, self.scratch = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        panel = Panel(spec.dtype, shape.width, 1, self.lanes)
        self.pack_k = define_panel_packer(module, f"{name}_pack_k", panel, "k")
        self.pack_v = define_panel_packer(module, f"{name}_pack_v", panel, "x")
        self.panel_row = I64(shape.width * spec.dtype.bytes)
        self.products = {
            rows: define_product(module, f"{name}_{rows}_rows", shape.unit, rows, shape.columns)
            for rows in (shape.rows, shape.unit.m)
        }
        self._read_arguments(ArgumentReader(self.builder, function))

    def _read_arguments(self, reader: ArgumentReader) -> None:
        spec = self.spec
        self.operands = read_operands(
            reader, (*[spec.dtype] * 3, *spec.score_inputs, spec.dtype), (*[UNIT] * 3, *spec.score_classes, UNIT)
        )
        self.items, self.per_chunk, self.segments, self.segment_rows, self.block_rows = (
            reader.integer() for _ in range(5)
        )
        self.queries, self.all_keys, self.head, self.values = (reader.integer() for _ in range(4))
        self.row_strides = [reader.integer() for _ in self.operands]
        self.k_at = self.scratch
        self.v_at, self.scores_at, self.sums_at, self.tile_at = (
            move(self.builder, self.scratch, reader.integer()) for _ in range(4)
        )
        self.score_row = reader.integer()
        self.v_packed = self.builder.icmp_signed("!=", reader.integer(), I64(0))
        extents = [reader.integer() for _ in range(spec.batch_rank)]
        self.batch = Odometer(self.builder, extents, [[reader.integer() for _ in extents] for _ in self.operands])

    def emit(self) -> None:
        """The whole kernel."""
        builder = self.builder
        first, last = chunk_range(builder, self.chunk, self.per_chunk, self.items)

        def item(number: ir.Value, packed: Values) -> Values:
            segment, matrix = builder.urem(number, self.segments), builder.udiv(number, self.segments)
            self.offsets = self.batch.offsets(self.batch.at(matrix))
            sources = [move(builder, self.operands[i].base, self.offsets[i]) for i in (1, 2)]
            addresses = [builder.ptrtoint(source, I64) for source in sources]
            k_differs, v_differs = (builder.icmp_signed("!=", *pair) for pair in zip(addresses, packed, strict=True))
            with builder.if_then(builder.or_(k_differs, v_differs)):
                self._pack(*sources)
            start = builder.mul(segment, self.segment_rows)
            stop = smaller(builder, builder.add(start, self.segment_rows), self.queries)
            counted_loop(builder, start, stop, self.block_rows, [], lambda m, _: self._block(m, stop))
            return addresses

        # Segments of one matrix, and heads of queries that share keys and values, are neighbours: packed once.
        counted_loop(builder, first, last, I64(1), [I64(0), I64(0)], item)
        builder.ret_void()

    def _pack(self, k: ir.Value, v: ir.Value) -> None:
        """K at `k` transposed into panels in scratch, and V unless it is read in place."""
        builder, width, element = self.builder, self.shape.width, I64(self.spec.dtype.bytes)
        k_row, v_row = self.row_strides[1], self.row_strides[2]

        def keys(x: ir.Value, _: Values) -> Values:
            source, panel = move(builder, k, builder.mul(x, k_row)), self._panel(self.k_at, x, self.head)
            count = smaller(builder, I64(width), builder.sub(self.all_keys, x))
            builder.call(self.pack_k, [source, k_row, element, count, self.head, panel])
            return []

        def elements(x: ir.Value, _: Values) -> Values:
            source, panel = move(builder, v, builder.mul(x, element)), self._panel(self.v_at, x, self.all_keys)
            count = smaller(builder, I64(width), builder.sub(self.values, x))
            builder.call(self.pack_v, [source, element, v_row, count, self.all_keys, panel])
            return []

        counted_loop(builder, I64(0), self.all_keys, I64(width), [], keys)
        columns = builder.select(self.v_packed, self.values, I64(0))
        counted_loop(builder, I64(0), columns, I64(width), [], elements)

    def _panel(self, base: ir.Value, x: ir.Value, depth: ir.Value) -> ir.Value:
        # Panels before column x hold x * depth elements.
        offset = self.builder.mul(self.builder.mul(x, depth), I64(self.spec.dtype.bytes))
        return move(self.builder, base, offset)

    def _block(self, m: ir.Value, stop: ir.Value) -> Values:
        """The query rows from `m` on, at most a block."""
        builder = self.builder
        rows = smaller(builder, self.block_rows, builder.sub(stop, m))
        self.keys = self._keys_within_reach(m)
        self._dots(m, rows)
        # Two loops: the maxima of several rows are found side by side, and so are sums and the next row's weights.
        counted_loop(builder, I64(0), rows, I64(1), [], lambda r, _: self._scores(r, builder.add(m, r)))
        counted_loop(builder, I64(0), rows, I64(1), [], lambda r, _: self._weights(r))
        self._weighted_sums(m, rows)
        return []

    def _keys_within_reach(self, m: ir.Value) -> ir.Value:
        """How many keys the group of queries that `m` is in may see."""
        if self.shape.reach is None:
            return self.all_keys
        builder = self.builder
        limit = builder.add(round_down(builder, m, GROUP), I64(GROUP + self.shape.reach))
        limit = builder.select(builder.icmp_signed(">", limit, I64(0)), limit, I64(0))
        return smaller(builder, limit, self.all_keys)

    def _dots(self, m: ir.Value, rows: ir.Value) -> None:
        builder, grid = self.builder, self.shape.rows
        q_row = self.row_strides[0]
        q = move(builder, self.operands[0].base, builder.add(self.offsets[0], builder.mul(m, q_row)))

        def panel(x: ir.Value, _: Values) -> Values:
            b = self._panel(self.k_at, x, self.head)
            column = move(builder, self.scores_at, builder.mul(x, I64(self.spec.acc.bytes)))

            def tile(r: ir.Value, _: Values) -> Values:
                a, out = move(builder, q, builder.mul(r, q_row)), move(builder, column, builder.mul(r, self.score_row))
                count = smaller(builder, I64(grid), builder.sub(rows, r))
                self._multiply(a, q_row, count, b, self.panel_row, self.head, out, self.score_row)
                return []

            counted_loop(builder, I64(0), rows, I64(grid), [], tile)
            return []

        counted_loop(builder, I64(0), self.keys, I64(self.shape.width), [], panel)

    def _score_row(self, r: ir.Value) -> ir.Value:
        row = move(self.builder, self.scores_at, self.builder.mul(r, self.score_row))
        return self.builder.bitcast(row, llvm_type(self.spec.acc).as_pointer())

    def _row_value(self, r: ir.Value) -> ir.Value:
        # Where the maximum, then the sum of block row `r` is kept.
        values = self.builder.bitcast(self.sums_at, llvm_type(self.spec.acc).as_pointer())
        return self.builder.gep(values, [r])

    def _scores(self, r: ir.Value, query: ir.Value) -> Values:
        """The dots of block row `r` become scores."""
        builder, spec = self.builder, self.spec
        rows = [
            (operand, builder.add(offset, builder.mul(query, stride)))
            for operand, offset, stride in zip(self.operands, self.offsets, self.row_strides, strict=True)
        ]
        top = score_row(builder, spec, self.lanes, self._score_row(r), query, self.keys, rows[3:-1])
        store_vector(builder, top, self._row_value(r), spec.acc)
        return []

    def _weights(self, r: ir.Value) -> Values:
        """The scores of block row `r` become weights; their sum replaces the maximum."""
        builder, acc = self.builder, self.spec.acc
        top = load_vector(builder, self._row_value(r), acc, 1)
        total = weigh_row(builder, acc, self.lanes, self._score_row(r), top, self.keys)
        store_vector(builder, total, self._row_value(r), acc)
        return []

    def _multiply(self, a: ir.Value, a_row: ir.Value, count: ir.Value, *rest: ir.Value) -> None:
        """A tile of products; a single row does not pay for a whole grid."""
        fewest = self.shape.unit.m
        with self.builder.if_else(self.builder.icmp_signed("<=", count, I64(fewest))) as (few, many):
            with few:
                self.builder.call(self.products[fewest], [a, a_row, count, *rest])
            with many:
                self.builder.call(self.products[self.shape.rows], [a, a_row, count, *rest])

    def _weighted_sums(self, m: ir.Value, rows: ir.Value) -> None:
        builder, grid = self.builder, self.shape.rows
        v = move(builder, self.operands[2].base, self.offsets[2])

        def panel(x: ir.Value, _: Values) -> Values:
            packed = self._panel(self.v_at, x, self.all_keys)
            b = builder.select(self.v_packed, packed, move(builder, v, builder.mul(x, I64(self.spec.dtype.bytes))))
            b_row = builder.select(self.v_packed, self.panel_row, self.row_strides[2])

            def tile(r: ir.Value, _: Values) -> Values:
                a = move(builder, self.scores_at, builder.mul(r, self.score_row))
                count = smaller(builder, I64(grid), builder.sub(rows, r))
                self._multiply(a, self.score_row, count, b, b_row, self.keys, self.tile_at, self.panel_row)
                counted_loop(builder, I64(0), count, I64(1), [], lambda i, _: self._finish(i, x, builder.add(r, i), m))
                return []

            counted_loop(builder, I64(0), rows, I64(grid), [], tile)
            return []

        counted_loop(builder, I64(0), self.values, I64(self.shape.width), [], panel)

    def _finish(self, i: ir.Value, x: ir.Value, r: ir.Value, m: ir.Value) -> Values:
        """Divide row `i` of the tile by the sum of block row `r` and store it from column `x` on."""
        spec, builder, lanes, width = self.spec, self.builder, self.lanes, self.shape.width
        tile = builder.bitcast(self.tile_at, llvm_type(spec.acc).as_pointer())
        total = load_vector(builder, self._row_value(r), spec.acc, 1)
        nothing = splat(builder, self._gives_zeros(total), lanes)
        divisor = splat(builder, total, lanes)
        row = builder.gep(tile, [builder.mul(i, I64(width))])
        query = builder.mul(builder.add(m, r), self.row_strides[-1])
        offset = builder.add(self.offsets[-1], query)
        count = smaller(builder, I64(width), builder.sub(self.values, x))
        full = round_down(builder, count, lanes)

        def store(c: ir.Value, mask: ir.Value | None) -> Values:
            value = builder.fdiv(load_vector(builder, builder.gep(row, [c]), spec.acc, lanes), divisor)
            value = builder.select(nothing, constant(value.type, 0), value)
            self.operands[-1].store(builder, value, offset, builder.add(x, c), mask)
            return []

        counted_loop(builder, I64(0), full, I64(lanes), [], lambda c, _: store(c, None))
        counted_loop(
            builder,
            full,
            count,
            I64(lanes),
            [],
            lambda c, _: store(c, tail_mask(builder, builder.sub(count, c), lanes)),
        )
        return []

    def _gives_zeros(self, total: ir.Value) -> ir.Value:
        """Whether a row is zero whatever its weights, by their sum (see AttentionSpec.zero_rows)."""
        builder, zero = self.builder, constant(total.type, 0)
        if self.spec.zero_rows == "empty":
            return builder.fcmp_ordered("==", total, zero)
        if self.spec.zero_rows == "undefined":
            return builder.fcmp_unordered("<=", total, zero)
        return builder.icmp_signed("==", self.all_keys, I64(0))
