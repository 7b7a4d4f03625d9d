"""Rows gathered and combined as they are read: the total of a block of a row stays in registers while its taps pass by.

Positions (O, I) are cut into chunks; a row of C elements is walked in blocks of some vectors, and for each block all
taps in ascending order. Nothing is written but results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llvmlite import ir

from backends.native.access import Operand, kernel_name, vector_lanes
from backends.native.emitter import ExprEmitter
from backends.native.kernel import (
    I8,
    I64,
    STATUS_INDEX_OUT_OF_RANGE,
    ArgumentReader,
    Arguments,
    VectorKernel,
    declare_kernel,
)
from backends.native.loops import (
    Odometer,
    Values,
    byte_strides,
    chunk_range,
    counted_loop,
    round_down,
    rows_per_chunk,
    when,
)
from backends.native.move_kernel import load_index
from backends.native.target import Target
from backends.native.vectors import constant, register_type, splat, tail_mask
from compiler.dims import Size
from compiler.expr import Expr, arg, cast
from compiler.kernels import BROADCAST, UNIT, KernelCall, View, WeightedTakeSpec
from compiler.ops.core_weighted_take import START, step

VECTORS = 4  # of a block: enough to hide the latency of the fma chain
TAP_NS, VECTOR_NS, POSITION_NS = 1.5, 0.3, 4.0


@dataclass(frozen=True)
class WeightedTakeKernel(VectorKernel):
    """The NativeKernel of a WeightedTakeSpec."""

    spec: WeightedTakeSpec

    @property
    def step(self) -> Expr:
        """The total after one more tap."""
        return step(self.spec.fn, self.spec.dtype, self.spec.acc)

    @property
    def lanes(self) -> int:
        """Elements a vector holds."""
        return vector_lanes((self.step,), (self.spec.dtype, self.spec.acc), self.target)

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        _Emission(self, module).emit()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: pointers of rows, index, weights, result; positions, positions a chunk; taps, byte strides of index
        and weights from tap to tap; A, byte stride of a row; C; O, I and byte strides of the four operands there."""
        rows, index, weights = call.reads
        views = (rows, index, weights, call.writes[0])
        taps, outer, count = (size(extent) for extent in index.shape)
        available, length = size(rows.shape[1]), size(rows.shape[2])
        position_ns = POSITION_NS + taps * (TAP_NS + length / self.lanes * VECTOR_NS)
        per_chunk = rows_per_chunk(outer * count, position_ns, threads)
        words: list[int | View] = [*views, outer * count, per_chunk, taps]
        words += [*byte_strides(index, (0,), size), *byte_strides(weights, (0,), size)]
        words += [available, *byte_strides(rows, (1,), size), length, outer, count]
        words += [*byte_strides(rows, (0,), size), 0, *byte_strides(index, (1, 2), size)]
        words += [*byte_strides(weights, (1, 2), size), *byte_strides(call.writes[0], (0, 1), size)]
        return Arguments(tuple(words), max(1, -(-outer * count // per_chunk)))


class _Emission:
    """The state of emitting one kernel."""

    def __init__(self, kernel: WeightedTakeKernel, module: ir.Module) -> None:
        self.kernel, self.spec, self.lanes = kernel, kernel.spec, kernel.lanes
        self.function = declare_kernel(module, kernel.name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    def emit(self) -> None:
        builder, spec = self.builder, self.spec
        reader = ArgumentReader(builder, self.function)
        rows, index, weights, result = (reader.pointer(I8) for _ in range(4))
        self.rows = Operand(spec.dtype, UNIT, rows, I64(1))
        self.index = index
        self.weights = Operand(spec.acc, BROADCAST, weights, I64(1))
        self.result = Operand(spec.dtype, UNIT, result, I64(1))
        positions, per_chunk, self.taps, self.index_step, self.weight_step = (reader.integer() for _ in range(5))
        self.available, self.row_step, self.length = (reader.integer() for _ in range(3))
        extents = [reader.integer() for _ in range(2)]
        odometer = Odometer(builder, extents, [[reader.integer() for _ in extents] for _ in range(4)])
        self.status = reader.status()
        block = self.lanes * VECTORS
        full = round_down(builder, self.length, block)
        first, last = chunk_range(builder, self.function.args[2], per_chunk, positions)

        def position(_: ir.Value, state: Values) -> Values:
            offsets = odometer.offsets(state)

            def several(c: ir.Value, _: Values) -> Values:
                self._block([builder.add(c, I64(i)) for i in range(0, block, self.lanes)], None, offsets)
                return []

            def masked(c: ir.Value, _: Values) -> Values:
                self._block([c], tail_mask(builder, builder.sub(self.length, c), self.lanes), offsets)
                return []

            counted_loop(builder, I64(0), full, I64(block), [], several)
            counted_loop(builder, full, self.length, I64(self.lanes), [], masked)
            return odometer.next(state)

        counted_loop(builder, first, last, I64(1), odometer.at(first), position)
        builder.ret_void()

    def _block(self, at: list[ir.Value], mask: ir.Value | None, offsets: Values) -> None:
        """The results of elements `at` of one row: all taps, then a store."""
        builder, spec = self.builder, self.spec
        start = constant(register_type(spec.acc, self.lanes), START[spec.fn])
        totals = counted_loop(
            builder, I64(0), self.taps, I64(1), [start] * len(at), partial(self._tap, at, mask, offsets)
        )
        finish = cast(arg(2, spec.acc), spec.dtype)
        for c, total in zip(at, totals, strict=True):
            value = ExprEmitter(builder, self.lanes, lambda _, total=total: total).emit(finish)  # type: ignore[misc]
            self.result.store(builder, value, offsets[3], c, mask)

    def _tap(self, at: list[ir.Value], mask: ir.Value | None, offsets: Values, t: ir.Value, totals: Values) -> Values:
        """The totals after tap `t`."""
        builder, spec = self.builder, self.spec
        where = builder.add(offsets[2], builder.mul(t, self.weight_step))
        weight = self.weights.load(builder, where, I64(0), 1)

        def read() -> Values:
            pointer = builder.gep(self.index, [builder.add(offsets[1], builder.mul(t, self.index_step))])
            place = load_index(builder, pointer, spec.index, self.available)

            def found() -> Values:
                row = builder.add(offsets[0], builder.mul(place, self.row_step))
                spread = splat(builder, weight, self.lanes)
                return [self._step(row, c, mask, spread, total) for c, total in zip(at, totals, strict=True)]

            def missing() -> Values:
                builder.store(I64(STATUS_INDEX_OUT_OF_RANGE), self.status)
                return totals

            return when(builder, builder.icmp_unsigned("<", place, self.available), found, missing)

        if spec.fn != "sum":
            return read()
        return when(builder, builder.fcmp_unordered("!=", weight, constant(weight.type, 0.0)), read, totals)

    def _step(self, row: ir.Value, c: ir.Value, mask: ir.Value | None, weight: ir.Value, total: ir.Value) -> ir.Value:
        def leaf(node: Expr) -> ir.Value:
            if node.value == 0:
                return self.rows.load(self.builder, row, c, self.lanes, mask)
            return weight if node.value == 1 else total

        return ExprEmitter(self.builder, self.lanes, leaf).emit(self.kernel.step)


def select(call: KernelCall, target: Target) -> WeightedTakeKernel:
    """The kernel for a WeightedTakeSpec call."""
    assert isinstance(call.spec, WeightedTakeSpec)
    return WeightedTakeKernel(call.spec, target, kernel_name("weighted_take", call.spec, target))
