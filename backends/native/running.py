"""Running reductions: a state carried along an axis, several side by side in vectors where rows are longer than one
element. A chunk is a range of outer positions and a piece of their rows; along the axis there is one order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import Operand, kernel_name, operand_words, read_operands, vector_lanes
from backends.native.emitter import ExprEmitter
from backends.native.kernel import I64, ArgumentReader, Arguments, VectorKernel, declare_kernel
from backends.native.loops import (
    Values,
    byte_strides,
    chunk_range,
    counted_loop,
    round_down,
    rows_per_chunk,
)
from backends.native.target import Target
from backends.native.vectors import constant, register_type, tail_mask
from compiler.dims import Size
from compiler.expr import Expr
from compiler.kernels import KernelCall
from compiler.running import RunningSpec

STEP_NS = 1.3  # a step waits for the one before
TOGETHER = 4  # vectors of a row carried at a time, so that steps overlap
PIECE = 256  # elements; pieces of rows are whole numbers of it


@dataclass(frozen=True)
class RunningKernel(VectorKernel):
    """The NativeKernel of a RunningSpec."""

    spec: RunningSpec

    @property
    def lanes(self) -> int:
        """States in a vector."""
        spec = self.spec
        types = (spec.element, spec.combine.dtype, spec.result.dtype)
        return 1 if spec.lone else vector_lanes((spec.combine, spec.result), types, self.target)

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        spec = self.spec
        function = declare_kernel(module, self.name)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        reader = ArgumentReader(builder, function)
        classes = (*spec.in_classes, *spec.out_classes)
        operands = read_operands(reader, (spec.element, spec.result.dtype), classes)
        outer, count, length, per_chunk, piece, pieces = (reader.integer() for _ in range(6))
        strides = [[reader.integer() for _ in range(2)] for _ in operands]
        first, last = chunk_range(builder, builder.udiv(function.args[2], pieces), per_chunk, outer)
        start, stop = chunk_range(builder, builder.urem(function.args[2], pieces), piece, length)

        def position(o: ir.Value, _: Values) -> Values:
            begins = [builder.mul(o, stride[0]) for stride in strides]
            axis = _Axis(builder, spec, self.lanes, operands, begins, [stride[1] for stride in strides], count)
            if spec.lone:
                axis.run([I64(0)], None)
                return []
            block = self.lanes * TOGETHER
            full = builder.add(start, round_down(builder, builder.sub(stop, start), block))

            def several(r: ir.Value, _: Values) -> Values:
                axis.run([builder.add(r, I64(step)) for step in range(0, block, self.lanes)], None)
                return []

            def masked(r: ir.Value, _: Values) -> Values:
                axis.run([r], tail_mask(builder, builder.sub(stop, r), self.lanes))
                return []

            counted_loop(builder, start, full, I64(block), [], several)
            counted_loop(builder, full, stop, I64(self.lanes), [], masked)
            return []

        counted_loop(builder, first, last, I64(1), [], position)
        builder.ret_void()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: operands; O, I, R, o a chunk, elements of a piece of a row, pieces; byte strides of each operand along
        (O, I)."""
        views = (*call.reads, *call.writes)
        outer, count, length = (size(extent) for extent in call.writes[0].shape)
        pieces = -(-length // PIECE)
        per_chunk = rows_per_chunk(outer, count * STEP_NS * -(-min(length, PIECE) // (self.lanes * TOGETHER)), threads)
        words = operand_words(views, (*self.spec.in_classes, *self.spec.out_classes), size)
        words += [outer, count, length, per_chunk, PIECE, pieces]
        for view in views:
            words += byte_strides(view, (0, 1), size)
        return Arguments(tuple(words), pieces * -(-outer // per_chunk))


@dataclass(frozen=True)
class _Axis:
    """The walk along the axis at one outer position: byte offsets where x and y begin, and their steps."""

    builder: ir.IRBuilder
    spec: RunningSpec
    lanes: int
    operands: list[Operand]
    begins: list[ir.Value]
    steps: list[ir.Value]
    count: ir.Value

    def run(self, at: list[ir.Value], mask: ir.Value | None) -> None:
        """Carry the states of the vectors of a row at positions `at`."""
        builder, (x, y) = self.builder, self.operands
        kind = register_type(self.spec.combine.dtype, self.lanes)

        def step(i: ir.Value, states: Values) -> Values:
            source, target = (
                builder.add(begin, builder.mul(i, step)) for begin, step in zip(self.begins, self.steps, strict=True)
            )
            elements = [x.load(builder, source, r, self.lanes, mask) for r in at]
            after = [self._value(self.spec.combine, pair) for pair in zip(states, elements, strict=True)]
            for r, state in zip(at, states if self.spec.exclusive else after, strict=True):
                y.store(builder, self._value(self.spec.result, (state,)), target, r, mask)
            return after

        counted_loop(builder, I64(0), self.count, I64(1), [constant(kind, self.spec.start)] * len(at), step)

    def _value(self, expr: Expr, operands: tuple[ir.Value, ...]) -> ir.Value:
        return ExprEmitter(self.builder, self.lanes, lambda node: operands[node.value]).emit(expr)


def select(call: KernelCall, target: Target) -> RunningKernel:
    """The kernel for a RunningSpec call."""
    assert isinstance(call.spec, RunningSpec)
    return RunningKernel(call.spec, target, kernel_name("running", call.spec, target))
