"""Gathers of single elements along one axis: take_elements of MoveSpec. A chunk is a piece of some (o, i) rows."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.kernel import (
    I8,
    I64,
    STATUS_INDEX_OUT_OF_RANGE,
    ArgumentReader,
    Arguments,
    declare_kernel,
)
from backends.native.loops import (
    Odometer,
    Values,
    chunk_range,
    counted_loop,
    row_pieces,
    rows_per_chunk,
    when,
)
from backends.native.move_kernel import MoveKernel, load_index
from compiler.dims import Size
from compiler.kernels import KernelCall, View

ELEMENT_NS = 1.0
SHORTEST_PIECE = 1024  # elements; rows are not split finer


class ElementsKernel(MoveKernel):
    """list[o, i, r] = table[o, index[o, i, r], r]: reads table (O, A, R), index (O, I, R), write list (O, I, R). An
    index that counts from neither end is reported and its element left alone."""

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        function = declare_kernel(module, self.name)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        reader = ArgumentReader(builder, function)
        pointers = [reader.pointer(I8) for _ in range(3)]  # table, list, index
        count, per_chunk, length, pieces, piece, available, step = (reader.integer() for _ in range(7))
        inner = [reader.integer() for _ in range(3)]
        extents = [reader.integer() for _ in range(2)]
        odometer = Odometer(builder, extents, [[reader.integer() for _ in extents] for _ in pointers])
        status = reader.status()
        first, last = chunk_range(builder, builder.udiv(function.args[2], pieces), per_chunk, count)
        start, stop = chunk_range(builder, builder.urem(function.args[2], pieces), piece, length)

        def row(_: ir.Value, state: Values) -> Values:
            begins = [builder.gep(p, [o]) for p, o in zip(pointers, odometer.offsets(state), strict=True)]

            def element(r: ir.Value, _: Values) -> Values:
                table, lone, at = (
                    builder.gep(begin, [builder.mul(r, stride)]) for begin, stride in zip(begins, inner, strict=True)
                )
                index = load_index(builder, at, self.index_dtype, available)

                def found() -> Values:
                    self._move(builder, builder.gep(table, [builder.mul(index, step)]), lone)
                    return []

                def missing() -> Values:
                    builder.store(I64(STATUS_INDEX_OUT_OF_RANGE), status)
                    return []

                return when(builder, builder.icmp_unsigned("<", index, available), found, missing)

            counted_loop(builder, start, stop, I64(1), [], element)
            return odometer.next(state)

        counted_loop(builder, first, last, I64(1), odometer.at(first), row)
        builder.ret_void()

    def _move(self, builder: ir.IRBuilder, table: ir.Value, lone: ir.Value) -> None:
        kind, align = ir.IntType(8 * self.spec.bytes).as_pointer(), min(self.spec.bytes, 8)
        table, lone = builder.bitcast(table, kind), builder.bitcast(lone, kind)
        builder.store(builder.load(table, align=align), lone, align=align)

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: pointers of table, list, index; rows, rows a chunk, R, its pieces and their length, A, byte stride of
        the indexed axis; byte strides along R; O, I; byte strides along those."""
        (table, index), lone = call.reads, call.writes[0]
        outer, count, length = (size(extent) for extent in index.shape)
        strides = [[size(stride) * view.dtype.bytes for stride in view.strides] for view in (table, lone, index)]
        rows, row_ns = outer * count, length * ELEMENT_NS
        pieces, piece = row_pieces(length, rows, row_ns, threads, SHORTEST_PIECE)
        per_chunk = rows_per_chunk(rows, row_ns / pieces, -(-threads // pieces))
        words: list[int | View] = [table, lone, index, rows, per_chunk, length, pieces, piece, size(table.shape[1])]
        words += [strides[0][1], *(row[2] for row in strides), outer, count]
        words += [strides[0][0], 0, *strides[1][:2], *strides[2][:2]]
        return Arguments(tuple(words), max(1, pieces * -(-rows // per_chunk)))
