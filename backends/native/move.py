"""Data movement: strided copies (transposing in registers where that helps), gathers of rows and of elements.

What a copy looks like is known only when sizes are: `copy_plan` drops, sorts and merges axes and says how rows are
moved (contiguous, repeated, transposed in tiles, or element by element); one kernel serves them all. A chunk is a range
of rows.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.access import kernel_name
from backends.native.copy_plan import ELEMENTWISE, TRANSPOSED, CopyPlan, plan_copy, row_mode
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
    counted_loop,
    product,
    row_pieces,
    rows_per_chunk,
    smaller,
    when,
)
from backends.native.move_elements import ElementsKernel
from backends.native.move_kernel import MoveKernel, load_index
from backends.native.row_copy import RowCopy
from backends.native.target import Target
from compiler.dims import Size
from compiler.kernels import KernelCall, MoveSpec, View

BYTES_PER_NS = 30.0
SHORTEST_PIECE = 1 << 14  # bytes; rows are not split finer
GRAIN = 64  # elements; pieces are whole numbers of it


class CopyKernel(MoveKernel):
    """read 0 -> write 0. 16-byte elements are moved as two of 8 bytes along an axis of their own."""

    @property
    def rank(self) -> int:
        """Axes the kernel walks, the row included."""
        return max(self.spec.rank, 2) + (self.spec.bytes == 16)

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        function = declare_kernel(module, self.name)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        reader = ArgumentReader(builder, function)
        rows = RowCopy(builder, min(self.spec.bytes, 8), self.target)
        source, target = reader.pointer(I8), reader.pointer(I8)
        mode, length, pieces, piece, count, per_chunk = (reader.integer() for _ in range(6))
        from_stride, to_stride, strip, strip_from, strip_to = (reader.integer() for _ in range(5))
        extents = [reader.integer() for _ in range(self.rank - 1)]
        odometer = Odometer(builder, extents, [[reader.integer() for _ in extents] for _ in range(2)])
        chunk = function.args[2]
        start = builder.mul(builder.urem(chunk, pieces), piece)
        stop = smaller(builder, builder.add(start, piece), length)
        first = builder.mul(builder.udiv(chunk, pieces), per_chunk)
        last = smaller(builder, builder.add(first, per_chunk), count)
        transposed = builder.icmp_signed("==", mode, I64(TRANSPOSED))

        def row(_: ir.Value, state: Values) -> Values:
            begin, end = (builder.gep(p, [o]) for p, o in zip((source, target), odometer.offsets(state), strict=True))

            def strip_of_tiles() -> Values:
                # The last strip moves back to end with its axis: tiles overlap instead of being cut.
                index = builder.mul(odometer.indices(state)[-1], I64(rows.tile))
                excess = builder.sub(builder.add(index, I64(rows.tile)), strip)
                back = builder.select(builder.icmp_signed(">", excess, I64(0)), builder.neg(excess), I64(0))
                moved = [builder.gep(p, [builder.mul(back, s)]) for p, s in ((begin, strip_from), (end, strip_to))]
                rows.transpose_strip(moved[0], moved[1], start, stop, from_stride, strip_to)
                return []

            def whole_row() -> Values:
                rows.move(begin, end, start, stop, mode, from_stride, to_stride)
                return []

            when(builder, transposed, strip_of_tiles, whole_row)
            return odometer.next(state)

        counted_loop(builder, first, last, I64(1), odometer.at(first), row)
        builder.ret_void()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: pointers; mode, row length, its pieces and their length, rows, rows a chunk; byte strides in a row;
        extent and byte strides of the axis tiles run across; extents and byte strides of the walked axes."""
        read, write = call.reads[0], call.writes[0]
        axes = [
            (size(extent), size(a) * self.spec.bytes, size(b) * self.spec.bytes)
            for extent, a, b in zip(write.shape, read.strides, write.strides, strict=True)
        ]
        plan: CopyPlan = plan_copy(axes, self.spec.bytes, RowCopy.tile_of(self.spec.bytes, self.target))
        walked = [(1, 0, 0)] * (self.rank - 1 - len(plan.walked)) + list(plan.walked)
        rows = product([extent for extent, _, _ in walked])
        step_bytes = min(self.spec.bytes, 8) * plan.strips
        row_bytes = plan.length * step_bytes
        row_ns = 4.0 + row_bytes / BYTES_PER_NS * (1.0 if plan.mode != ELEMENTWISE else 16.0 / self.spec.bytes)
        pieces, piece = row_pieces(plan.length, rows, row_ns, threads, -(-SHORTEST_PIECE // step_bytes), GRAIN)
        per_chunk = rows_per_chunk(rows, row_ns / pieces, -(-threads // pieces))
        words: list[int | View] = [read, write, plan.mode, plan.length, pieces, piece, rows, per_chunk]
        words += [plan.from_stride, plan.to_stride, plan.strip, plan.strip_from, plan.strip_to]
        for column in range(3):
            words += [axis[column] for axis in walked]
        return Arguments(tuple(words), max(1, pieces * -(-rows // per_chunk)))


class TakeKernel(MoveKernel):
    """out[o, i, r] = data[o, index[i], r]."""

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        spec = self.spec
        function = declare_kernel(module, self.name)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        reader = ArgumentReader(builder, function)
        copy = RowCopy(builder, min(spec.bytes, 8), self.target)
        source, indices, target = (reader.pointer(I8) for _ in range(3))
        mode, length, count, per_chunk, available, step, from_stride, to_stride = (reader.integer() for _ in range(8))
        extents = [reader.integer() for _ in range(2)]
        odometer = Odometer(builder, extents, [[reader.integer() for _ in extents] for _ in range(3)])
        status = reader.status()
        first = builder.mul(function.args[2], per_chunk)
        last = smaller(builder, builder.add(first, per_chunk), count)

        def row(_: ir.Value, state: Values) -> Values:
            begin, at, end = (
                builder.gep(p, [o]) for p, o in zip((source, indices, target), odometer.offsets(state), strict=True)
            )
            index = load_index(builder, at, self.index_dtype, available)

            def found() -> Values:
                begin_row = builder.gep(begin, [builder.mul(index, step)])
                copy.move(begin_row, end, I64(0), length, mode, from_stride, to_stride)
                return []

            def missing() -> Values:
                builder.store(I64(STATUS_INDEX_OUT_OF_RANGE), status)
                return []

            when(builder, builder.icmp_unsigned("<", index, available), found, missing)
            return odometer.next(state)

        counted_loop(builder, first, last, I64(1), odometer.at(first), row)
        builder.ret_void()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: pointers; mode, row length, rows, rows a chunk, extent and byte stride of the indexed axis, byte
        strides in a row; extents and byte strides of (O, I) for data, index and result."""
        data, index, write = *call.reads, call.writes[0]
        bytes_ = self.spec.bytes
        outer, count, length = (size(extent) for extent in write.shape)
        from_outer, step, from_stride = (size(stride) * bytes_ for stride in data.strides)
        to_outer, to_index, to_stride = (size(stride) * bytes_ for stride in write.strides)
        if bytes_ == 16:
            assert length <= 1 or from_stride == to_stride == 16, "rows of 16-byte elements are gathered whole"
            length, from_stride, to_stride = length * 2, 8, 8
        rows = outer * count
        per_chunk = rows_per_chunk(rows, 6.0 + length * bytes_ / BYTES_PER_NS, threads)
        mode = row_mode(length, from_stride, to_stride, min(bytes_, 8))
        words: list[int | View] = [
            data,
            index,
            write,
            mode,
            length,
            rows,
            per_chunk,
            size(data.shape[1]),
            step,
            from_stride,
            to_stride,
        ]
        words += [outer, count, from_outer, 0, 0, size(index.strides[0]) * index.dtype.bytes, to_outer, to_index]
        return Arguments(tuple(words), max(1, -(-rows // per_chunk)))


_KERNELS: dict[str, type[CopyKernel] | type[TakeKernel] | type[ElementsKernel]] = {
    "copy": CopyKernel,
    "take": TakeKernel,
    "take_elements": ElementsKernel,
}


def select(call: KernelCall, target: Target) -> CopyKernel | TakeKernel | ElementsKernel:
    """The kernel for a MoveSpec call."""
    assert isinstance(call.spec, MoveSpec)
    return _KERNELS[call.spec.kind](call.spec, target, kernel_name(call.spec.kind, call.spec, target))
