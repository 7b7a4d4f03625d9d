"""Channels-last window reductions: max and sum pools, depthwise convolution (dot).

Channels are the vector lanes. Nothing is padded: where a window leaves the input, the range of its kernel positions is
clipped. The output positions whose windows fit along the last spatial axis are taken several at a time, so that a
kernel position's weights are read once for all of them. An accumulator takes the visited positions in row order, dot
by fma. A chunk is a range of output rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import cost, kernel_name, operand_words
from backends.native.kernel import Arguments, VectorKernel
from backends.native.loops import byte_strides, product, rows_per_chunk
from backends.native.target import Target
from backends.native.window_emission import WindowEmission
from compiler.dims import Size
from compiler.kernels import KernelCall, WindowSpec


@dataclass(frozen=True)
class WindowKernel(VectorKernel):
    """The NativeKernel of a WindowSpec."""

    spec: WindowSpec

    @property
    def lanes(self) -> int:
        """Channels a vector holds."""
        spec = self.spec
        dtypes = (spec.dtype, spec.acc, *spec.epilogue_inputs, *(root.dtype for root in spec.epilogue))
        return max(1, self.target.vector // max(dtype.bytes for dtype in dtypes))

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        WindowEmission(self.spec, self.lanes, module, self.name).emit()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: operands; channels, rows, rows a chunk; per spatial axis kernel extent, stride, dilation, pad, input
        extent and the byte strides of a kernel step in the input and the weights; output extent of the last axis and
        its first and last + 1 position with a whole window; byte offset of the first window; extents of the rows'
        axes; byte strides of input, epilogue operands and results on those axes and on the last spatial axis."""
        spec, spatial = self.spec, self.spec.spatial
        params = [size(p) for p in call.params]
        out, kernel, stride, dilation, pad, extent = (params[g * spatial : (g + 1) * spatial] for g in range(6))
        channels = size(call.writes[0].shape[-1])
        axes = range(1, spatial + 1)
        from_input = byte_strides(call.reads[0], axes, size)
        rows_shape = [size(call.writes[0].shape[0]), *out[:-1]]
        rows = product(rows_shape)
        row_ns = 10.0 + out[-1] * (channels / self.lanes + 1) * (0.3 * product(kernel) + 0.2 * cost(spec.epilogue) + 2)
        per_chunk = rows_per_chunk(rows, row_ns, threads)

        words = operand_words((*call.reads, *call.writes), (*spec.in_classes, *spec.out_classes), size)
        words += [channels, rows, per_chunk, *kernel, *stride, *dilation, *pad, *extent]
        words += [step * d for step, d in zip(from_input, dilation, strict=True)]
        if spec.fn == "dot":
            words += byte_strides(call.reads[1], range(spatial), size)
        words += [out[-1], *whole_windows(out[-1], kernel[-1], stride[-1], dilation[-1], pad[-1], extent[-1])]
        words.append(-sum(p * step for p, step in zip(pad, from_input, strict=True)))
        words += rows_shape
        input_steps = [step * s for step, s in zip(from_input, stride, strict=True)]
        words += [*byte_strides(call.reads[0], [0], size), *input_steps]
        for view in (*call.reads[2 if spec.fn == "dot" else 1 :], *call.writes):
            words += byte_strides(view, range(spatial + 1), size)
        return Arguments(tuple(words), max(1, -(-rows // per_chunk)))


def whole_windows(out: int, kernel: int, stride: int, dilation: int, pad: int, extent: int) -> tuple[int, int]:
    """The output positions [first, last) of an axis whose windows lie inside the input."""
    first = min(-(-pad // stride), out) if pad > 0 else 0
    reach = extent + pad - (kernel - 1) * dilation - 1  # the last input position a whole window may start at, padded
    last = min(reach // stride + 1, out) if reach >= 0 else 0
    return first, max(first, last)


def select(call: KernelCall, target: Target) -> WindowKernel:
    """The kernel for a WindowSpec call."""
    assert isinstance(call.spec, WindowSpec)
    return WindowKernel(call.spec, target, kernel_name("window", call.spec, target))
