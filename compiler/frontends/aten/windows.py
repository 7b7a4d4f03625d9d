"""ATen calls that take an image apart into blocks and put it together again: unfold, fold, max unpooling."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dims
from compiler.dims import Size
from compiler.expr import const
from compiler.expr import index as position
from compiler.frontends.aten.base import AtenBuilder, aten, reshape, shape_of, tensor_type, transpose
from compiler.ir import Value
from compiler.ops.columns import add_blocks

Ints = Sequence[int]


@aten("aten.im2col.default")
def _im2col(b: AtenBuilder, x: Value, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Value:
    """Blocks of x [N, C, H, W] (or without N) as columns [N, C * block elements, blocks]."""
    single = tensor_type(x).rank == 3
    x = reshape(b, x, [1, *shape_of(x)]) if single else x
    if any(padding):
        sides = (0, 0, *padding)
        x = b.emit("pad", x, before=sides, after=sides)
    batch, channels, *sizes = shape_of(x)
    blocks: list[Size] = []
    for i, size in enumerate(sizes):
        axis = 2 + 2 * i  # the axis before has become two
        count = (size - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        place = position(0) * dilation[i] + position(1) * stride[i]
        places = b.emit("map", outputs=(place,), shape=(kernel[i], count), hint="place")
        x = b.emit("take", x, places, axis=axis)
        blocks.append(count)
    columns = transpose(b, x, (0, 1, 2, 4, 3, 5))
    shape: list[Size] = [batch, channels * dims.product(kernel), dims.product(blocks)]
    return reshape(b, columns, shape[1:] if single else shape)


@aten("aten.col2im.default")
def _col2im(
    b: AtenBuilder, x: Value, size: Sequence[Size], kernel: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Value:
    single = tensor_type(x).rank == 2
    x = reshape(b, x, [1, *shape_of(x)]) if single else x
    attrs = {"dilations": dilation, "pads": (*padding, *padding), "strides": stride}
    image = add_blocks(b, x, size, kernel, attrs)
    return reshape(b, image, shape_of(image)[1:]) if single else image


@aten("aten.max_unpool2d.default", "aten.max_unpool3d.default")
def _max_unpool(
    b: AtenBuilder, x: Value, places: Value, size: Sequence[Size], stride: Ints = (), padding: Ints = ()
) -> Value:
    """Zeros with the elements of x at the flat places in each plane of `size`."""
    shape = shape_of(x)
    lead = shape[: len(shape) - len(size)]
    outer, count, plane = dims.product(lead), dims.product(shape[len(lead) :]), dims.product(size)
    zeros = b.emit("map", outputs=(const(0, b.dtype),), shape=(outer, plane, 1), hint="zeros")
    at, rows = (reshape(b, value, [outer, count, 1]) for value in (places, x))
    filled = b.emit("scatter", zeros, at, rows, reduction="none", hint="max_unpool")
    return reshape(b, filled, [*lead, *size])
