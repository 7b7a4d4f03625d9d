"""The gathering A-packer of convolutions (implicit im2col): rows of A copied from a channels-last input into scratch.

Row m of A is an output position (batch, output position...), its columns run over (kernel positions..., channels).
Where the kernel's last axis is dense in memory (dilation 1, pixels side by side), its positions and channels are one
run, cut at the borders; padding is zero. The micro-kernel then reads the rows like any row-major A.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I64, POINTER
from backends.native.loops import counted_loop, smaller
from backends.native.vectors import I1, constant, llvm_type, load_vector, store_vector, tail_mask, widen
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


def define_gatherer(module: ir.Module, name: str, spatial: int, dtype: DType, lanes: int) -> ir.Function:
    """void name(window words, input, first row, rows, scratch): rows of A side by side in scratch."""
    kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), POINTER, I64, I64, POINTER])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _Gatherer(builder, function, spatial, dtype, lanes).emit()
    builder.ret_void()
    return function


class _Gatherer:
    """The body of a gatherer."""

    def __init__(self, builder: ir.IRBuilder, function: ir.Function, spatial: int, dtype: DType, lanes: int) -> None:
        self.builder, self.spatial, self.dtype, self.lanes = builder, spatial, dtype, lanes
        words, self.input, self.first, self.rows, self.scratch = function.args
        values = [builder.load(builder.gep(words, [I64(i)])) for i in range(window_word_count(spatial))]
        self.axis = {field: values[i * spatial : (i + 1) * spatial] for i, field in enumerate(_FIELDS)}
        self.strides = values[6 * spatial : 7 * spatial + 1]
        self.channels, self.run = values[-2:]
        self.pixel = builder.mul(self.channels, I64(dtype.bytes))

    def emit(self) -> None:
        """All rows."""
        builder = self.builder

        def one_row(r: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            corner, source = self._corner(builder.add(self.first, r))
            return [self._positions(0, corner, source, I1(1), carried[0])]

        counted_loop(builder, I64(0), self.rows, I64(1), [self.scratch], one_row)

    def _corner(self, m: ir.Value) -> tuple[list[ir.Value], ir.Value]:
        """Input coordinates of kernel position 0 for output position m, and the address of its image."""
        builder, corner = self.builder, []
        for axis in reversed(range(self.spatial)):
            extent = self.axis["output"][axis]
            position = builder.urem(m, extent)
            m = builder.udiv(m, extent)
            corner.append(builder.sub(builder.mul(position, self.axis["stride"][axis]), self.axis["pad"][axis]))
        return corner[::-1], move(builder, self.input, builder.mul(m, self.strides[0]))

    def _positions(
        self, axis: int, corner: list[ir.Value], source: ir.Value, inside: ir.Value, target: ir.Value
    ) -> ir.Value:
        """Copy kernel positions from `axis` inwards; the target pointer after them."""
        builder = self.builder
        if axis == self.spatial - 1:
            return self._runs(corner[axis], source, inside, target)

        def one(position: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(corner[axis], builder.mul(position, self.axis["dilation"][axis]))
            # One unsigned comparison: negative coordinates are huge.
            within = builder.and_(inside, builder.icmp_unsigned("<", at, self.axis["input"][axis]))
            line = move(builder, source, builder.mul(at, self.strides[axis + 1]))
            return [self._positions(axis + 1, corner, line, within, carried[0])]

        return counted_loop(builder, I64(0), self.axis["kernel"][axis], I64(1), [target], one)[0]

    def _runs(self, start: ir.Value, line: ir.Value, inside: ir.Value, target: ir.Value) -> ir.Value:
        """The kernel's last axis, in runs of `run` neighbouring positions, of which those outside are zero."""
        builder, axis = self.builder, self.spatial - 1
        extent = self.axis["input"][axis]

        def one(position: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(start, builder.mul(position, self.axis["dilation"][axis]))
            low = self._clip(builder.sub(I64(0), at))
            high = self._clip(builder.sub(extent, at))
            low = builder.select(inside, smaller(builder, low, high), self.run)
            high = builder.select(inside, high, self.run)
            first = move(builder, line, builder.mul(builder.add(at, low), self.strides[axis + 1]))
            to = self._fill(carried[0], builder.mul(low, self.channels), None)
            to = self._fill(to, builder.mul(builder.sub(high, low), self.channels), first)
            return [self._fill(to, builder.mul(builder.sub(self.run, high), self.channels), None)]

        return counted_loop(builder, I64(0), self.axis["kernel"][axis], self.run, [target], one)[0]

    def _clip(self, value: ir.Value) -> ir.Value:
        builder = self.builder
        return smaller(builder, builder.select(builder.icmp_signed(">", value, I64(0)), value, I64(0)), self.run)

    def _fill(self, target: ir.Value, count: ir.Value, source: ir.Value | None) -> ir.Value:
        """`count` elements of `source`, or zeros, to `target`; the pointer behind them."""
        builder, lanes, element = self.builder, self.lanes, llvm_type(self.dtype).as_pointer()
        zero = constant(widen(llvm_type(self.dtype), lanes), 0)

        def vector(i: ir.Value, mask: ir.Value | None) -> list[ir.Value]:
            offset = builder.mul(i, I64(self.dtype.bytes))
            value = zero
            if source is not None:
                value = load_vector(
                    builder, builder.bitcast(move(builder, source, offset), element), self.dtype, lanes, mask
                )
            store_vector(builder, value, builder.bitcast(move(builder, target, offset), element), self.dtype, mask)
            return []

        whole = builder.and_(count, I64(-lanes))
        counted_loop(builder, I64(0), whole, I64(lanes), [], lambda i, _: vector(i, None))
        rest = builder.sub(count, whole)
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            vector(whole, tail_mask(builder, rest, lanes))
        return move(builder, target, builder.mul(count, I64(self.dtype.bytes)))
