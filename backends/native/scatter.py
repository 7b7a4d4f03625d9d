"""Scatters: what is there combined with what comes, in the order it comes.

All updates of one place are applied by one chunk, in ascending order, so results do not depend on the split. Three
things split the work without two chunks meeting in a place: the outer axis, pieces of the rows, and last, because each
chunk then reads every index, ranges of places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import (
    Operand,
    kernel_name,
    operand_words,
    read_operands,
    unroll,
    vector_lanes,
    vector_ns,
)
from backends.native.emitter import ExprEmitter
from backends.native.kernel import (
    I64,
    STATUS_INDEX_OUT_OF_RANGE,
    ArgumentReader,
    Arguments,
    VectorKernel,
    declare_kernel,
)
from backends.native.loops import (
    CHUNK_NS,
    CHUNKS_PER_THREAD,
    Values,
    byte_strides,
    chunk_range,
    counted_loop,
    round_down,
    when,
)
from backends.native.move_kernel import load_index
from backends.native.target import Target
from backends.native.vectors import tail_mask
from compiler.dims import Size
from compiler.expr import Expr
from compiler.kernels import BROADCAST, KernelCall, ScatterSpec

ELEMENT_NS, ROW_NS = 1.5, 3.0
SHORTEST_PIECE = 256  # bytes; rows are not split finer
GRAIN = 64  # elements; pieces of rows are whole numbers of it


@dataclass(frozen=True)
class ScatterKernel(VectorKernel):
    """The NativeKernel of a ScatterSpec."""

    spec: ScatterSpec

    @property
    def whole_rows(self) -> bool:
        """Whether one index moves a row."""
        return self.spec.in_classes[1] == BROADCAST

    @property
    def lanes(self) -> int:
        """Elements a vector of a row holds; where every element has an index of its own they go one by one."""
        combine = self.spec.combine
        return vector_lanes((combine,), (combine.dtype,), self.target) if self.whole_rows else 1

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        _Emission(self, module).emit()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: operands; O, I, R, A; o a chunk, its chunks, elements a piece, pieces, places a range, ranges; byte
        strides of updates and index along (O, I), of the table along (O, A)."""
        views = (*call.reads, *call.writes)
        outer, count, length = (size(extent) for extent in call.reads[1].shape)
        available = size(call.writes[0].shape[1])
        if self.whole_rows:
            row_ns = ROW_NS + length / self.lanes * vector_ns((self.spec.combine,), 3)
        else:
            row_ns = length * ELEMENT_NS
        row_bytes = length * self.spec.combine.dtype.bytes
        split = _split(outer, available, length, row_bytes, outer * count * row_ns, threads)
        words = operand_words(views, (*self.spec.in_classes, *self.spec.out_classes), size)
        chunks = 1
        words += [outer, count, length, available]
        for total, each in zip((outer, length, available), split, strict=True):
            parts = max(1, -(-total // each))
            words += [each, parts]
            chunks *= parts
        for view in views:
            words += byte_strides(view, (0, 1), size)
        return Arguments(tuple(words), chunks)


def _split(
    outer: int, available: int, length: int, row_bytes: int, total_ns: float, threads: int
) -> tuple[int, int, int]:
    """How many outer positions, elements of a row and places one chunk takes."""
    wanted = min(int(total_ns / CHUNK_NS), threads * CHUNKS_PER_THREAD) if threads > 1 else 1
    if outer >= wanted or not outer:
        return max(1, -(-outer // max(wanted, 1))), max(length, 1), max(available, 1)
    pieces = max(1, min(-(-wanted // outer), row_bytes // SHORTEST_PIECE))
    piece = length if pieces == 1 else -(-length // (pieces * GRAIN)) * GRAIN
    lacking = min(threads, wanted) // (outer * pieces)  # every range reads all indices: no more than there are threads
    return 1, max(piece, 1), max(1, -(-available // max(lacking, 1)))


class _Emission:
    """The state of emitting one scatter."""

    def __init__(self, kernel: ScatterKernel, module: ir.Module) -> None:
        self.kernel, self.spec, self.lanes = kernel, kernel.spec, kernel.lanes
        self.function = declare_kernel(module, kernel.name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    def emit(self) -> None:
        spec, builder = self.spec, self.builder
        reader = ArgumentReader(builder, self.function)
        dtype = spec.combine.dtype
        classes = (*spec.in_classes, *spec.out_classes)
        self.updates, self.index, self.table = read_operands(reader, (dtype, spec.index, dtype), classes)
        outer, count, length, self.available = (reader.integer() for _ in range(4))
        split = [(reader.integer(), reader.integer()) for _ in range(3)]  # each, parts
        strides = [[reader.integer() for _ in range(2)] for _ in range(3)]
        self.step = strides[2][1]
        self.status = reader.status()
        chunk, bounds = self.function.args[2], []
        for total, (each, parts) in zip((outer, length, self.available), split, strict=True):
            bounds.append(chunk_range(builder, builder.urem(chunk, parts), each, total))
            chunk = builder.udiv(chunk, parts)
        (first, last), self.columns, (self.low, high) = bounds
        self.places = builder.sub(high, self.low)

        def position(o: ir.Value, _: Values) -> Values:
            starts = [builder.mul(o, stride[0]) for stride in strides]

            def rows(one: bool) -> Callable[[], Values]:
                def row(i: ir.Value, _: Values) -> Values:
                    update, index = (
                        builder.add(start, builder.mul(i, stride[1]))
                        for start, stride in zip(starts[:2], strides, strict=False)
                    )
                    self._row(update, index, starts[2], one)
                    return []

                return lambda: counted_loop(builder, I64(0), count, I64(1), [], row)

            if self.kernel.whole_rows:
                rows(False)()
            else:  # rows of one element are common and need no loop of their own
                when(builder, builder.icmp_signed("==", length, I64(1)), rows(True), rows(False))
            return []

        counted_loop(builder, first, last, I64(1), [], position)
        builder.ret_void()

    def _row(self, update: ir.Value, index: ir.Value, table: ir.Value, one: bool) -> None:
        builder = self.builder
        if self.kernel.whole_rows:
            self._at_place(index, I64(0), lambda place: self._combine_row(update, builder.add(table, place)))
            return

        def element(r: ir.Value, _: Values) -> Values:
            self._at_place(index, r, lambda place: self._combine([r], None, update, builder.add(table, place)))
            return []

        if one:
            element(I64(0), [])
        else:
            counted_loop(builder, self.columns[0], self.columns[1], I64(1), [], element)

    def _at_place(self, offset: ir.Value, r: ir.Value, body: Callable[[ir.Value], None]) -> None:
        """`body` with the byte offset of the place an index names, if it is one of this chunk's."""
        builder = self.builder
        pointer = self.index.address(builder, offset, r)
        place = load_index(builder, pointer, self.spec.index, self.available)

        def mine() -> Values:
            body(builder.mul(place, self.step))
            return []

        def another() -> Values:
            def missing() -> Values:
                builder.store(I64(STATUS_INDEX_OUT_OF_RANGE), self.status)
                return []

            return when(builder, builder.icmp_unsigned(">=", place, self.available), missing, [])

        when(builder, builder.icmp_unsigned("<", builder.sub(place, self.low), self.places), mine, another)

    def _combine_row(self, update: ir.Value, table: ir.Value) -> None:
        builder, lanes = self.builder, self.lanes
        start, stop = self.columns
        block = lanes * unroll((self.spec.combine,))
        full = builder.add(start, round_down(builder, builder.sub(stop, start), block))

        def several(r: ir.Value, _: Values) -> Values:
            self._combine([builder.add(r, I64(step)) for step in range(0, block, lanes)], None, update, table)
            return []

        def masked(r: ir.Value, _: Values) -> Values:
            self._combine([r], tail_mask(builder, builder.sub(stop, r), lanes), update, table)
            return []

        counted_loop(builder, start, full, I64(block), [], several)
        counted_loop(builder, full, stop, I64(lanes), [], masked)

    def _combine(self, at: list[ir.Value], mask: ir.Value | None, update: ir.Value, table: ir.Value) -> None:
        results = [self._value(r, mask, update, table) for r in at]
        for r, value in zip(at, results, strict=True):
            self.table.store(self.builder, value, table, r, mask)

    def _value(self, r: ir.Value, mask: ir.Value | None, update: ir.Value, table: ir.Value) -> ir.Value:
        operands: tuple[tuple[Operand, ir.Value], ...] = ((self.table, table), (self.updates, update))

        def leaf(node: Expr) -> ir.Value:
            assert node.op == "arg", f"a scatter has no {node.op}"
            operand, offset = operands[node.value]
            return operand.load(self.builder, offset, r, self.lanes, mask)

        return ExprEmitter(self.builder, self.lanes, leaf).emit(self.spec.combine)


def select(call: KernelCall, target: Target) -> ScatterKernel:
    """The kernel for a ScatterSpec call."""
    assert isinstance(call.spec, ScatterSpec)
    return ScatterKernel(call.spec, target, kernel_name("scatter", call.spec, target))
