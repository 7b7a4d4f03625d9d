"""Convolutions and window kernels onto kernel calls, on channels-last memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compiler import dims, views
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, arg, cast, transform, walk
from compiler.ir import Node
from compiler.kernels import View, WindowSpec
from compiler.lowering.axes import stride_class
from compiler.lowering.products import (
    accumulator,
    computed,
    emit_gemm,
    gemm_spec,
    multiplied,
    with_unit_depth,
    without_axis,
)

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


def lower_conv(node: Node, low: Lowering) -> None:
    """Convolution as a product with a gathering packer, on channels-last memory; depthwise has a kernel of its own."""
    attrs = node.attrs
    x, out_shape = _channels_last(low.view(node.inputs[0]), attrs), node.output.type.shape
    x = low.with_unit_axis(x, -1)
    rank = len(x.shape)
    to_logical = list(range(rank)) if attrs["channels_last"] else [0, rank - 1, *range(1, rank - 1)]
    outs = []
    for value in node.outputs:
        view = low.scratch_dense(
            value.type.dtype, [out_shape[0], *_spatial(out_shape, attrs), _channels(out_shape, attrs)]
        )
        low.alias(value, views.transpose(view, to_logical))
        outs.append(view)
    extras = [_channels_last(low.broadcast_view(v, out_shape), attrs) for v in node.inputs[3:]]
    acc = attrs["acc"] or accumulator(x.dtype)
    epilogue = attrs["epilogue"] or (cast(arg(0, acc), outs[0].dtype),)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        extras.append(views.broadcast(low.view(node.inputs[2]), outs[0].shape))
        biased = arg(0, acc) + cast(arg(len(extras), extras[-1].dtype), acc)
        epilogue = tuple(transform(e, lambda n: biased if n == arg(0, acc) else None) for e in epilogue)
    if any(size == 0 for size in out_shape):
        return
    channels, features = x.shape[-1], outs[0].shape[-1]
    params = window_params(outs[0].shape[1:-1], node.inputs[1].type.shape[2:], attrs, x.shape[1:-1])
    # Window kernels know no sums, and skip positions in the padding instead of reading it.
    sums = attrs["fill"] or any(n.op in ("stat", "extent") for n in walk(tuple(epilogue)))
    if attrs["group"] > 1 and channels == attrs["group"] == features and not sums:
        _emit_depthwise(low, node, x, extras, outs, epilogue, acc, params)
    else:
        _emit_conv_gemm(low, node, x, extras, outs, epilogue, acc, params)


def _channels_last(view: View, attrs: object) -> View:
    rank = len(view.shape)
    return view if attrs["channels_last"] else views.transpose(view, [0, *range(2, rank), 1])  # type: ignore[index]


def _spatial(shape: Sequence[Size], attrs: object) -> Sequence[Size]:
    return shape[1:-1] if attrs["channels_last"] else shape[2:]  # type: ignore[index]


def _channels(shape: Sequence[Size], attrs: object) -> Size:
    return shape[-1] if attrs["channels_last"] else shape[1]  # type: ignore[index]


def window_params(
    out: Sequence[Size], kernel: Sequence[Size], attrs: object, sizes: Sequence[Size]
) -> tuple[Size, ...]:
    """GemmSpec's and WindowSpec's params."""
    strides, dilations, pads = (attrs[key] for key in ("strides", "dilations", "pads"))  # type: ignore[index]
    return (*out, *kernel, *strides, *dilations, *pads[: len(sizes)], *sizes)


def _emit_depthwise(
    low: Lowering,
    node: Node,
    x: View,
    extras: list[View],
    outs: list[View],
    epilogue: Sequence[Expr],
    acc: DType,
    params: tuple[Size, ...],
) -> None:
    w = node.inputs[1]
    rank = len(x.shape)
    weights = low.rearranged(w, [*range(2, rank), 0, 1], (*w.type.shape[2:], w.type.shape[0]))
    shifted = [
        transform(e, lambda n: arg(n.value + 1, n.dtype) if n.op == "arg" and n.value else None) for e in epilogue
    ]
    emit_window(low, "dot", computed(low, x, acc), [computed(low, weights, acc)], extras, outs, shifted, acc, params)


def emit_window(
    low: Lowering,
    fn: str,
    x: View,
    weights: list[View],
    extras: Sequence[View],
    outs: Sequence[View],
    epilogue: Sequence[Expr],
    acc: DType,
    params: tuple[Size, ...],
) -> None:
    """One window call; all views channels-last."""
    reads = [x, *weights, *extras]
    spec = WindowSpec(
        fn=fn,
        dtype=x.dtype,
        acc=acc,
        spatial=len(x.shape) - 2,
        epilogue=tuple(epilogue),
        epilogue_inputs=tuple(view.dtype for view in extras),
        in_classes=tuple(stride_class(view.strides[-1], view.shape[-1]) for view in reads),
        out_classes=tuple(stride_class(view.strides[-1], view.shape[-1]) for view in outs),
    )
    low.call(spec, reads, outs, params)


def _emit_conv_gemm(
    low: Lowering,
    node: Node,
    x: View,
    extras: list[View],
    outs: list[View],
    epilogue: Sequence[Expr],
    acc: DType,
    params: tuple[Size, ...],
) -> None:
    w, group = node.inputs[1], node.attrs["group"]
    features, kernel = w.type.shape[0], w.type.shape[2:]
    # Weights as [group, (kernel.., C/group) = K, O/group = N]: a rearranged constant, packed later.
    k_size = dims.product((*kernel, w.type.shape[1]))
    x, split = multiplied(low, x, low.rearranged_groups(w, group), acc)
    b = View(split.buffer, split.dtype, (group, k_size, features // group), _dense3(k_size, features // group))
    m_size = dims.product(outs[0].shape[:-1])

    def grouped(view: View) -> View:
        """[N, out.., O] as [group, M, O/group]; the positions must merge into rows."""
        if 0 not in view.strides:
            view = low.with_unit_axis(view, -1)
        flat = low.reshaped(view, (m_size, features))
        columns = features // group
        stride = flat.strides[1]
        return replace(flat, shape=(group, m_size, columns), strides=(stride * columns, flat.strides[0], stride))

    outs, extras = [grouped(v) for v in outs], [grouped(v) for v in extras]
    count = len(kernel)
    padded = not dims.is_static(node.attrs["pads"]) or any(node.attrs["pads"])
    plain = all(n == 1 for n in (*kernel, *node.attrs["strides"])) and not padded
    flat = views.reshape(x, (m_size, x.shape[-1])) if plain else None
    if flat is not None:
        c = x.shape[-1] // group
        a = replace(flat, shape=(group, m_size, c), strides=(c * flat.strides[1], flat.strides[0], flat.strides[1]))
        emit_gemm(low, a, b, extras, outs, epilogue, acc)
        return
    c = x.shape[-1] // group
    a = replace(x, shape=(group, *x.shape[:-1], c), strides=(c, *x.strides))
    batch = 1
    if group == 1:
        a, b, batch = without_axis(a, 0), without_axis(b, 0), 0
        outs, extras = [without_axis(v, 0) for v in outs], [without_axis(v, 0) for v in extras]
    fill = node.attrs["fill"] if padded else 0
    spec = gemm_spec(low, with_unit_depth(low, a), b, extras, outs, epilogue, acc, batch, window=count, fill=fill)
    low.call(spec, [a, b, *extras], outs, params)


def _dense3(k: Size, n: Size) -> tuple[Size, ...]:
    return (k * n, n, 1)


def pack_groups(w: np.ndarray, group: int) -> np.ndarray:
    """Convolution weights [O, C/group, kernel..] as a dense [group, kernel.., C/group, O/group]."""
    split = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(split, 2, -1), 1, -1))
