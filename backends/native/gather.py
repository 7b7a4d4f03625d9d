"""The gathering A-packer of convolutions (implicit im2col): rows of A copied from a channels-last input into scratch.

Row m of A is an output position (batch, output position...), its columns run over (kernel positions..., channels).
Where the kernel's last axis is dense in memory (dilation 1, pixels side by side), its positions and channels are one
run, cut at the borders; padding is a given element. The micro-kernel then reads the rows like any row-major A.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import Odometer, counted_loop, smaller, when
from backends.native.units import MatrixUnit
from backends.native.vectors import I1, llvm_type, load_vector, store_vector, tail_mask
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.kernels import KernelCall

_FIELDS = ("output", "kernel", "stride", "dilation", "pad", "input")


def window_words(call: KernelCall, size: Callable[[Size], int]) -> list[int]:
    """Argument words the gatherer reads: the call's parameters, input strides (N, spatial...) in bytes, channels, and
    how many positions of the kernel's last axis lie side by side in memory (1 or all)."""
    spatial = call.spec.window  # type: ignore[union-attr]
    if not spatial:
        return []
    view = call.reads[0]
    strides = [size(stride) * view.dtype.bytes for stride in view.strides[-spatial - 2 : -1]]
    channels = size(view.shape[-1])
    parameters = [size(value) for value in call.params]
    dense = parameters[4 * spatial - 1] == 1 and strides[-1] == channels * view.dtype.bytes
    return [*parameters, *strides, channels, parameters[2 * spatial - 1] if dense else 1]


def window_word_count(spatial: int) -> int:
    """How many words `window_words` gives."""
    return 7 * spatial + 3 if spatial else 0


def define_gatherer(module: ir.Module, name: str, spatial: int, unit: MatrixUnit) -> ir.Function:
    """void name(window words, input, first row, rows, scratch, pitch, spare, filler): rows of A, as the unit reads
    them, `pitch` bytes apart in scratch, which is written up to one vector beyond their end; each ends in `spare`
    elements of padding. `filler`: a register of padding, of the type `unit.left`."""
    function, builder = define_helper(module, name, [I64.as_pointer(), POINTER, I64, I64, POINTER, I64, I64, POINTER])
    _Gatherer(builder, function, spatial, unit).emit()
    builder.ret_void()
    return function


class WindowWalk:
    """A walk over output positions, row by row of A, with what the argument words say of the window."""

    def __init__(self, builder: ir.IRBuilder, words: ir.Value, image: ir.Value, spatial: int) -> None:
        self.builder, self.spatial, self.input = builder, spatial, image
        values = [builder.load(builder.gep(words, [I64(i)])) for i in range(window_word_count(spatial))]
        self.axis = {field: values[i * spatial : (i + 1) * spatial] for i, field in enumerate(_FIELDS)}
        self.strides = values[6 * spatial : 7 * spatial + 1]
        self.channels, self.run = values[-2:]
        # The number of images never matters: the first axis is not wrapped around.
        self.walk = Odometer(builder, [I64(0), *self.axis["output"]], [])

    def corner(self, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        """Input coordinates of kernel position 0 for an output position, and the address of its image."""
        builder = self.builder
        image, *positions = self.walk.indices(state)
        corner = [
            builder.sub(builder.mul(position, stride), pad)
            for position, stride, pad in zip(positions, self.axis["stride"], self.axis["pad"], strict=True)
        ]
        return corner, move(builder, self.input, builder.mul(image, self.strides[0]))


class _Gatherer(WindowWalk):
    """The body of a gatherer."""

    def __init__(self, builder: ir.IRBuilder, function: ir.Function, spatial: int, unit: MatrixUnit) -> None:
        words, image, self.first, self.rows, self.scratch, self.pitch, self.spare, filler = function.args
        super().__init__(builder, words, image, spatial)
        self.unit, self.lanes, (self.read, self.written) = unit, unit.row_lanes, unit.row_types
        typed = builder.bitcast(filler, llvm_type(self.written).as_pointer())
        self.filler = load_vector(builder, typed, self.written, self.lanes)

    def emit(self) -> None:
        """All rows; those wholly inside the input take a path without clipping."""
        builder = self.builder
        spread = builder.mul(self.run, self.channels)
        self.run_mask = tail_mask(builder, builder.and_(spread, I64(self.lanes - 1)), self.lanes)

        def one_row(i: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            target = move(builder, self.scratch, builder.mul(i, self.pitch))
            corner, source = self.corner(state)
            after = when(
                builder,
                self._whole(corner),
                lambda: [self._inside(0, self._offset(source, corner), target)],
                lambda: [self._positions(0, corner, source, I1(1), target)],
            )
            if self.unit.k > 1:
                self._padding(after[0], self.spare)
            return self.walk.next(state)

        counted_loop(builder, I64(0), self.rows, I64(1), self.walk.at(self.first), one_row)

    def _whole(self, corner: list[ir.Value]) -> ir.Value:
        """Whether every kernel position is inside the input."""
        builder, whole = self.builder, I1(1)
        for axis, first in enumerate(corner):
            reach = builder.mul(builder.sub(self.axis["kernel"][axis], I64(1)), self.axis["dilation"][axis])
            # One unsigned comparison each: negative coordinates are huge.
            for at in (first, builder.add(first, reach)):
                whole = builder.and_(whole, builder.icmp_unsigned("<", at, self.axis["input"][axis]))
        return whole

    def _offset(self, source: ir.Value, corner: list[ir.Value]) -> ir.Value:
        for axis, at in enumerate(corner):
            source = move(self.builder, source, self.builder.mul(at, self.strides[axis + 1]))
        return source

    def _inside(self, axis: int, source: ir.Value, target: ir.Value) -> ir.Value:
        """Copy kernel positions from `axis` inwards, all inside the input; the target pointer after them."""
        builder = self.builder
        last = axis == self.spatial - 1
        step = builder.mul(self.axis["dilation"][axis], self.strides[axis + 1])

        def one(position: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            at = move(builder, source, builder.mul(position, step))
            if last:
                return [self._copy(carried[0], builder.mul(self.run, self.channels), at, self.run_mask)]
            return [self._inside(axis + 1, at, carried[0])]

        every = self.run if last else I64(1)
        return counted_loop(builder, I64(0), self.axis["kernel"][axis], every, [target], one)[0]

    def _positions(
        self, axis: int, corner: list[ir.Value], source: ir.Value, inside: ir.Value, target: ir.Value
    ) -> ir.Value:
        """Copy kernel positions from `axis` inwards, padded where outside; the target pointer after them."""
        builder = self.builder
        if axis == self.spatial - 1:
            return self._runs(corner[axis], source, inside, target)

        def one(position: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(corner[axis], builder.mul(position, self.axis["dilation"][axis]))
            within = builder.and_(inside, builder.icmp_unsigned("<", at, self.axis["input"][axis]))
            line = move(builder, source, builder.mul(at, self.strides[axis + 1]))
            return [self._positions(axis + 1, corner, line, within, carried[0])]

        return counted_loop(builder, I64(0), self.axis["kernel"][axis], I64(1), [target], one)[0]

    def _runs(self, start: ir.Value, line: ir.Value, inside: ir.Value, target: ir.Value) -> ir.Value:
        """The kernel's last axis, in runs of `run` neighbouring positions, of which those outside are padding."""
        builder, axis = self.builder, self.spatial - 1
        extent = self.axis["input"][axis]

        def one(position: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(start, builder.mul(position, self.axis["dilation"][axis]))
            low = self._clip(builder.sub(I64(0), at))
            high = self._clip(builder.sub(extent, at))
            low = builder.select(inside, smaller(builder, low, high), self.run)
            high = builder.select(inside, high, self.run)
            first = move(builder, line, builder.mul(builder.add(at, low), self.strides[axis + 1]))
            to = self._padding(carried[0], builder.mul(low, self.channels))
            count = builder.mul(builder.sub(high, low), self.channels)
            rest = builder.and_(count, I64(self.lanes - 1))
            to = self._copy(to, count, first, tail_mask(builder, rest, self.lanes))
            return [self._padding(to, builder.mul(builder.sub(self.run, high), self.channels))]

        return counted_loop(builder, I64(0), self.axis["kernel"][axis], self.run, [target], one)[0]

    def _clip(self, value: ir.Value) -> ir.Value:
        builder = self.builder
        return smaller(builder, builder.select(builder.icmp_signed(">", value, I64(0)), value, I64(0)), self.run)

    # Stores are whole vectors: what they write beyond their run, the next run or row overwrites.

    def _padding(self, target: ir.Value, count: ir.Value) -> ir.Value:
        """`count` elements of padding; the pointer behind them."""
        builder, written = self.builder, self.written

        def vector(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            store_vector(builder, self.filler, self._element(target, i, written), written)
            return []

        counted_loop(builder, I64(0), count, I64(self.lanes), [], vector)
        return move(builder, target, builder.mul(count, I64(written.bytes)))

    def _copy(self, target: ir.Value, count: ir.Value, source: ir.Value, mask: ir.Value) -> ir.Value:
        """`count` elements of `source`, `mask` being on for count % lanes; the pointer behind them."""
        builder, read, written, lanes = self.builder, self.read, self.written, self.lanes
        whole = builder.and_(count, I64(-lanes))

        def vector(i: ir.Value, mask: ir.Value | None) -> list[ir.Value]:
            value = load_vector(builder, self._element(source, i, read), read, lanes, mask)
            store_vector(builder, self.unit.converted(builder, value), self._element(target, i, written), written)
            return []

        counted_loop(builder, I64(0), whole, I64(lanes), [], lambda i, _: vector(i, None))
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            vector(whole, mask)
        return move(builder, target, builder.mul(count, I64(written.bytes)))

    def _element(self, pointer: ir.Value, i: ir.Value, dtype: DType) -> ir.Value:
        moved = move(self.builder, pointer, self.builder.mul(i, I64(dtype.bytes)))
        return self.builder.bitcast(moved, llvm_type(dtype).as_pointer())
