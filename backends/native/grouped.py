"""Groups of rows in a GEMM kernel: each has a matrix B of its own, and ends where run-time data says.

An item's range of rows is met with every group's: how many rows a group has decides neither the plan nor the chunks.
Rows behind the last group count as one more, which multiplies nothing (depth 0) and still has its epilogue.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I8, I64, STATUS_INDEX_OUT_OF_RANGE, ArgumentReader
from backends.native.loops import Values, counted_loop, smaller, when
from backends.native.vectors import llvm_type
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.kernels import View

# body(offset of the group's B in bytes, first row, row behind the last, depth of the product)
Body = Callable[[ir.Value, ir.Value, ir.Value, ir.Value], None]


def group_words(ends: View, matrix_bytes: int, size: Callable[[Size], int]) -> list[int | View]:
    """Argument words: where groups end and that vector's stride in bytes, number of groups, bytes from B to B."""
    return [ends, size(ends.strides[0]) * ends.dtype.bytes, size(ends.shape[0]), matrix_bytes]


class RowGroups:
    """The groups of one kernel, read from their argument words; `rows` and `depth` are M and K of the whole call."""

    def __init__(self, reader: ArgumentReader, dtype: DType, rows: ir.Value, depth: ir.Value) -> None:
        self.dtype, self.rows, self.depth = dtype, rows, depth
        self.ends = reader.pointer(I8)
        self.stride, self.count, self.matrix_bytes = (reader.integer() for _ in range(3))
        self.status = reader.status()

    def each(self, builder: ir.IRBuilder, first: ir.Value, stop: ir.Value, body: Body) -> None:
        """`body` for the rows of [first, stop) in each group that has some, and for those behind the last group."""

        def group(number: ir.Value, carried: Values) -> Values:
            is_rest = builder.icmp_signed("==", number, self.count)
            end = when(builder, is_rest, lambda: [self.rows], lambda: [self._end(builder, number, carried[0])])[0]
            low = builder.select(builder.icmp_signed("<", carried[0], first), first, carried[0])
            high = smaller(builder, end, stop)
            with builder.if_then(builder.icmp_signed("<", low, high)):
                depth = builder.select(is_rest, I64(0), self.depth)
                offset = builder.select(is_rest, I64(0), builder.mul(number, self.matrix_bytes))
                body(offset, low, high, depth)
            return [end]

        counted_loop(builder, I64(0), builder.add(self.count, I64(1)), I64(1), [I64(0)], group)

    def _end(self, builder: ir.IRBuilder, number: ir.Value, start: ir.Value) -> ir.Value:
        """Where a group that begins at `start` ends: no later than the rows do, no earlier than it began."""
        address = move(builder, self.ends, builder.mul(number, self.stride))
        stored = builder.load(builder.bitcast(address, llvm_type(self.dtype).as_pointer()), align=self.dtype.bytes)
        end = stored if self.dtype.bits == 64 else builder.sext(stored, I64)
        descends, beyond = builder.icmp_signed("<", end, start), builder.icmp_signed(">", end, self.rows)
        with builder.if_then(builder.or_(descends, beyond)):
            builder.store(I64(STATUS_INDEX_OUT_OF_RANGE), self.status)
        return builder.select(descends, start, smaller(builder, end, self.rows))
