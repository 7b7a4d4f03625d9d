"""Pools onto window calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler import dtypes, views
from compiler.expr import arg, cast
from compiler.ir import Node
from compiler.lowering.convolution import emit_window, window_params
from compiler.lowering.products import accumulator

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


def lower_pool(node: Node, low: Lowering) -> None:
    """A pool on channels-last memory; the result keeps that memory order."""
    attrs, value = node.attrs, node.output
    x = low.view(node.inputs[0])
    rank = len(x.shape)
    if not attrs["channels_last"]:
        x = views.transpose(x, [0, *range(2, rank), 1])
    x = low.with_unit_axis(x, -1)
    shape = value.type.shape
    last = shape if attrs["channels_last"] else (shape[0], *shape[2:], shape[1])
    out = low.scratch_dense(value.type.dtype, last)
    order = range(rank) if attrs["channels_last"] else [0, rank - 1, *range(1, rank - 1)]
    low.alias(value, views.transpose(out, list(order)))
    if any(size == 0 for size in shape):
        return
    acc = accumulator(x.dtype) if x.dtype.is_float and attrs["fn"] != "max" else x.dtype
    total = arg(0, acc)
    if attrs["fn"] == "mean":
        wide = acc if acc.is_float else dtypes.float32
        total = cast(cast(total, wide) / arg(1, wide), acc)
    params = window_params(out.shape[1:-1], attrs["kernel"], attrs, x.shape[1:-1])
    fn = "max" if attrs["fn"] == "max" else "sum"
    emit_window(low, fn, x, [], [], [out], (cast(total, out.dtype),), acc, params)
