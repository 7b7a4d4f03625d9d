"""The loops of a window reduction (see backends/native/window.py)."""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir

from backends.native.access import read_operands
from backends.native.conversions import emit_cast
from backends.native.emitter import ExprEmitter
from backends.native.kernel import I64, ArgumentReader, declare_kernel
from backends.native.loops import Odometer, Values, chunk_range, counted_loop, round_down, when
from backends.native.vectors import constant, register_type, tail_mask
from compiler import dtypes
from compiler.canonical import identity
from compiler.expr import Expr, apply, arg, cast
from compiler.kernels import WindowSpec

POSITIONS = 4  # output positions taken together where their windows are whole

Ranges = list[tuple[ir.Value, ir.Value]]  # kernel positions [first, last) of each spatial axis


class WindowEmission:
    """Emits one window kernel; words as WindowKernel.arguments lists them."""

    def __init__(self, spec: WindowSpec, lanes: int, module: ir.Module, name: str) -> None:
        self.spec, self.lanes = spec, lanes
        function = declare_kernel(module, name)
        self.chunk = function.args[2]
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._read_arguments(ArgumentReader(self.builder, function))

    def _read_arguments(self, reader: ArgumentReader) -> None:
        spec = self.spec
        self.dot = spec.fn == "dot"
        first_operand = 2 if self.dot else 1
        dtypes_ = (*[spec.dtype] * first_operand, *spec.epilogue_inputs, *(root.dtype for root in spec.epilogue))
        operands = read_operands(reader, dtypes_, (*spec.in_classes, *spec.out_classes))
        self.input, self.weights = operands[0], operands[first_operand - 1]
        self.others = operands[first_operand:]  # epilogue operands, then results

        def each_axis() -> Values:
            return [reader.integer() for _ in range(spec.spatial)]

        self.channels, self.rows, self.per_chunk = (reader.integer() for _ in range(3))
        self.kernel, self.stride, self.dilation, self.pad, self.extent = (each_axis() for _ in range(5))
        self.input_steps = each_axis()
        self.weight_steps = each_axis() if self.dot else [I64(0)] * spec.spatial
        self.out, self.whole_first, self.whole_last, self.origin = (reader.integer() for _ in range(4))
        extents = each_axis()
        strides = [[reader.integer() for _ in range(spec.spatial + 1)] for _ in (self.input, *self.others)]
        self.odometer = Odometer(self.builder, extents, [row[:-1] for row in strides])
        self.last_strides = [row[-1] for row in strides]

    def emit(self) -> None:
        """The whole kernel."""
        builder, odometer = self.builder, self.odometer
        first, last = chunk_range(builder, self.chunk, self.per_chunk, self.rows)

        def row(_: ir.Value, state: Values) -> Values:
            offsets = odometer.offsets(state)
            self._row(odometer.indices(state)[1:], [builder.add(offsets[0], self.origin), *offsets[1:]])
            return odometer.next(state)

        counted_loop(builder, first, last, I64(1), odometer.at(first), row)
        builder.ret_void()

    def _row(self, position: Values, offsets: Values) -> None:
        """One row of output positions along the last spatial axis; `position` on the other spatial axes."""
        builder, last = self.builder, self.spec.spatial - 1
        outer = [self._clipped(axis, o) for axis, o in enumerate(position)]
        whole = (I64(0), self.kernel[last])
        blocks = builder.add(
            self.whole_first, round_down(builder, builder.sub(self.whole_last, self.whole_first), POSITIONS)
        )

        def several(o: ir.Value, _: Values) -> Values:
            self._positions(o, POSITIONS, [*outer, whole], offsets)
            return []

        def single(o: ir.Value, _: Values) -> Values:
            self._positions(o, 1, [*outer, self._clipped(last, o)], offsets)
            return []

        counted_loop(builder, self.whole_first, blocks, I64(POSITIONS), [], several)
        # The positions before and after the blocks: one loop over both, that jumps over what lies between.
        jump = builder.sub(blocks, self.whole_first)

        def outside(o: ir.Value, _: Values) -> Values:
            behind = builder.icmp_signed(">=", o, self.whole_first)
            return single(builder.select(behind, builder.add(o, jump), o), [])

        counted_loop(builder, I64(0), builder.sub(self.out, jump), I64(1), [], outside)

    def _clipped(self, axis: int, o: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The kernel positions of `axis` that read inside the input for output position `o`."""
        builder, dilation = self.builder, self.dilation[axis]
        start = builder.sub(builder.mul(o, self.stride[axis]), self.pad[axis])
        rest = builder.sub(self.extent[axis], start)
        span = builder.add(builder.mul(builder.sub(self.kernel[axis], I64(1)), dilation), I64(1))
        inside = builder.and_(builder.icmp_signed(">=", start, I64(0)), builder.icmp_signed(">=", rest, span))

        def clip() -> Values:
            steps = []
            for distance in (builder.neg(start), rest):
                positive = builder.select(builder.icmp_signed(">", distance, I64(0)), distance, I64(0))
                up = builder.udiv(builder.add(positive, builder.sub(dilation, I64(1))), dilation)
                fewer = builder.icmp_signed("<", up, self.kernel[axis])
                steps.append(builder.select(fewer, up, self.kernel[axis]))
            return steps

        first, last = when(builder, inside, lambda: [I64(0), self.kernel[axis]], clip)
        return first, last

    def _positions(self, o: ir.Value, count: int, ranges: Ranges, offsets: Values) -> None:
        """`count` output positions from `o` on, all channels."""
        builder, lanes = self.builder, self.lanes
        full = round_down(builder, self.channels, lanes)
        at = [builder.add(o, I64(step)) for step in range(count)]
        places = [
            [builder.add(offset, builder.mul(p, s)) for offset, s in zip(offsets, self.last_strides, strict=True)]
            for p in at
        ]

        def channels(c: ir.Value, _: Values) -> Values:
            self._block(c, None, places, ranges)
            return []

        def masked(c: ir.Value, _: Values) -> Values:
            self._block(c, tail_mask(builder, builder.sub(self.channels, c), lanes), places, ranges)
            return []

        counted_loop(builder, I64(0), full, I64(lanes), [], channels)
        counted_loop(builder, full, self.channels, I64(lanes), [], masked)

    def _block(self, c: ir.Value, mask: ir.Value | None, places: list[Values], ranges: Ranges) -> None:
        """One vector of channels at some output positions, whose offsets into input, operands and results are
        `places`."""
        spec, builder = self.spec, self.builder
        start = constant(register_type(spec.acc, self.lanes), self._identity())
        sums = self._visit(0, I64(0), I64(0), [start] * len(places), c, mask, places, ranges)
        visited: ir.Value = I64(1)
        for first, last in ranges:
            extent = builder.sub(last, first)
            some = builder.icmp_signed(">", extent, I64(0))
            visited = builder.mul(visited, builder.select(some, extent, I64(0)))
        count = emit_cast(builder, visited, dtypes.int64, spec.acc)
        for total, place in zip(sums, places, strict=True):
            self._finish(total, count, c, mask, place[1:])

    def _visit(
        self,
        axis: int,
        from_input: ir.Value,
        from_weights: ir.Value,
        sums: Values,
        c: ir.Value,
        mask: ir.Value | None,
        places: list[Values],
        ranges: Ranges,
    ) -> Values:
        builder = self.builder
        if axis == self.spec.spatial:
            return self._take(from_input, from_weights, sums, c, mask, places)
        first, last = ranges[axis]
        steps = self.input_steps[axis], self.weight_steps[axis]
        starts = [
            builder.add(offset, builder.mul(first, step))
            for offset, step in zip((from_input, from_weights), steps, strict=True)
        ]

        def kernel_position(_: ir.Value, carried: Values) -> Values:
            inner = self._visit(axis + 1, carried[0], carried[1], carried[2:], c, mask, places, ranges)
            return [*(builder.add(offset, step) for offset, step in zip(carried[:2], steps, strict=True)), *inner]

        return counted_loop(builder, first, last, I64(1), [*starts, *sums], kernel_position)[2:]

    def _take(
        self,
        from_input: ir.Value,
        from_weights: ir.Value,
        sums: Values,
        c: ir.Value,
        mask: ir.Value | None,
        places: list[Values],
    ) -> Values:
        spec, builder, lanes = self.spec, self.builder, self.lanes
        element, total = cast(arg(0, spec.dtype), spec.acc), arg(2, spec.acc)
        if self.dot:
            weight = self.weights.load(builder, from_weights, c, lanes, mask)
            step = apply("fma", element, cast(arg(1, spec.dtype), spec.acc), total)
        else:
            weight = None
            step = apply("max" if spec.fn == "max" else "add", total, element)
        taken = []
        for place, before in zip(places, sums, strict=True):
            loaded = self.input.load(builder, builder.add(place[0], from_input), c, lanes, mask)
            leaves = {0: loaded, 1: weight, 2: before}
            taken.append(ExprEmitter(builder, lanes, partial(_leaf_of, leaves)).emit(step))
        return taken

    def _finish(self, total: ir.Value, count: ir.Value, c: ir.Value, mask: ir.Value | None, place: Values) -> None:
        builder, reads = self.builder, len(self.spec.epilogue_inputs)

        def leaf(node: Expr) -> ir.Value:
            assert node.op == "arg", f"a window's epilogue has no {node.op}"
            if node.value < 2:
                return (total, count)[node.value]
            return self.others[node.value - 2].load(builder, place[node.value - 2], c, self.lanes, mask)

        emitter = ExprEmitter(builder, self.lanes, leaf)
        values = [emitter.emit(root) for root in self.spec.epilogue]
        for write, offset, value in zip(self.others[reads:], place[reads:], values, strict=True):
            write.store(builder, value, offset, c, mask)

    def _identity(self) -> float:
        if self.spec.fn != "max":
            return 0
        if self.spec.acc.is_float:
            return float("-inf")
        return identity("max", np.dtype(self.spec.acc.name))


def _leaf_of(values: dict[int, ir.Value], node: Expr) -> ir.Value:
    return values[node.value]
