"""Matrix products, convolutions and attention onto kernel calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compiler import dims, dtypes, views
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, arg, cast, index, transform
from compiler.ir import Node
from compiler.kernels import GENERAL, AttentionSpec, GemmSpec, View, WindowSpec
from compiler.lowering.axes import collapse, stride_class

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


def accumulator(dtype: DType) -> DType:
    """The type products of `dtype` are summed in: FP64 for FP64, FP32 for other floats, wrapping integers as they are."""
    return dtypes.float32 if dtype.is_float and dtype.bits < 32 else dtype


def lower_matmul(node: Node, low: Lowering) -> None:
    """C = A @ B with its epilogue. A constant left operand becomes the packed right one of the transposed product."""
    a, b = (low.view(v) for v in node.inputs[:2])
    shape = node.output.type.shape
    extras = [low.broadcast_view(v, shape) for v in node.inputs[2:]]
    swap = low.is_weight(a) and not low.is_weight(b) and len(a.shape) == 2
    rank = len(shape)
    order = [*range(rank - 2), rank - 1, rank - 2] if swap else None
    outs = [low.allocate(value, order) for value in node.outputs]
    batch = shape[:-2]
    a = views.broadcast(a, (*batch, *a.shape[-2:]))
    b = views.broadcast(b, (*batch, *b.shape[-2:]))
    if swap:
        flip = [*range(rank - 2), rank - 1, rank - 2]
        a, b = views.transpose(b, flip), views.transpose(a, flip)
        outs, extras = [views.transpose(v, flip) for v in outs], [views.transpose(v, flip) for v in extras]
    acc = node.attrs["acc"] or accumulator(a.dtype)
    epilogue = node.attrs["epilogue"] or (cast(arg(0, acc), outs[0].dtype),)
    emit_gemm(low, a, b, extras, outs, epilogue, acc)


def emit_gemm(
    low: Lowering,
    a: View,
    b: View,
    extras: Sequence[View],
    outs: Sequence[View],
    epilogue: Sequence[Expr],
    acc: DType,
) -> None:
    """One product on views [batch.., M, K], [batch.., K, N], [batch.., M, N] with matching batch axes."""
    if any(size == 0 for size in outs[0].shape):
        return
    a, b, extras, outs = fold_batch(a, b, list(extras), list(outs))
    low.call(
        gemm_spec(low, a, b, extras, outs, epilogue, acc, len(a.shape) - 2), [a, b, *extras], outs
    )


def gemm_spec(
    low: Lowering,
    a: View,
    b: View,
    extras: Sequence[View],
    outs: Sequence[View],
    epilogue: Sequence[Expr],
    acc: DType,
    batch_rank: int,
    window: int = 0,
) -> GemmSpec:
    """The spec of a product on these views."""
    return GemmSpec(
        a=a.dtype,
        b=b.dtype,
        acc=acc,
        batch_rank=batch_rank,
        a_axis="row" if window else matrix_axis(a),
        b_axis=matrix_axis(b),
        constant_b=low.is_weight(b),
        epilogue=tuple(epilogue),
        epilogue_inputs=tuple(view.dtype for view in extras),
        epilogue_classes=tuple(stride_class(view.strides[-1]) for view in extras),
        out_classes=tuple(stride_class(view.strides[-1]) for view in outs),
        window=window,
    )


def matrix_axis(view: View) -> str:
    """Which of the last two axes is contiguous."""
    return "row" if view.strides[-1] == 1 else "column" if view.strides[-2] == 1 else GENERAL


def fold_batch(
    a: View, b: View, extras: list[View], outs: list[View]
) -> tuple[View, View, list[View], list[View]]:
    """Batch axes merged with one another, and into the rows where B does not depend on them: [B, S, K] @ [K, N] is one
    product of B*S rows."""
    rows = [a, *extras, *outs]
    while len(a.shape) > 2 and (
        a.shape[-3] == 1
        or (b.strides[-3] == 0 and all(views.mergeable(v.strides[-3], v.shape[-2], v.strides[-2]) for v in rows))
    ):
        rows = [_merge(v, len(v.shape) - 3) for v in rows]
        b = _drop(b, len(b.shape) - 3)
        a = rows[0]
    every = [*rows, b]
    axis = 0
    while axis < len(a.shape) - 3:
        if every[0].shape[axis] == 1:
            every = [_drop(v, axis) for v in every]
        elif all(views.mergeable(v.strides[axis], v.shape[axis + 1], v.strides[axis + 1]) for v in every):
            every = [_merge(v, axis) for v in every]
        else:
            axis += 1
        a = every[0]
    rows, b = every[:-1], every[-1]
    return rows[0], b, rows[1 : 1 + len(extras)], rows[1 + len(extras) :]


def _merge(view: View, axis: int) -> View:
    """Axes `axis` and the next as one (an outer extent of 1 just goes)."""
    size = view.shape[axis] * view.shape[axis + 1]
    return replace(
        view,
        shape=(*view.shape[:axis], size, *view.shape[axis + 2 :]),
        strides=(*view.strides[:axis], *view.strides[axis + 1 :]),
    )


def _drop(view: View, axis: int) -> View:
    """Without an axis whose extent is 1 or whose stride is 0."""
    return replace(
        view,
        shape=(*view.shape[:axis], *view.shape[axis + 1 :]),
        strides=(*view.strides[:axis], *view.strides[axis + 1 :]),
    )


def lower_attention(node: Node, low: Lowering) -> None:
    """Fused attention; q, k and v must be contiguous along the head, else they are copied."""
    q, k, v = (low.with_unit_axis(low.view(value), -1) for value in node.inputs[:3])
    # Results lie as the queries do: heads split from [B, L, H*E] are joined again without a copy.
    rank = len(q.shape)
    out = low.allocate(node.output, [*(a for a in views.memory_order(q) if a != rank - 1), rank - 1])
    batch = out.shape[:-2]
    scores = (*batch, q.shape[-2], k.shape[-2])
    extras = [low.broadcast_view(value, scores) for value in node.inputs[3:]]
    every = [views.broadcast(x, (*batch, *x.shape[-2:])) for x in (q, k, v)] + extras + [out]
    space = collapse([_batch_only(x) for x in every], range(rank - 2)) if rank > 2 else None
    if space is not None:
        every = [
            replace(x, shape=(*space.extents, *x.shape[-2:]), strides=(*space.strides[i], *x.strides[-2:]))
            for i, x in enumerate(every)
        ]
    positions = {rank - 2: 0, rank - 1: 1}
    score = transform(node.attrs["score"], lambda n: index(positions[n.value]) if n.op == "index" else None)
    spec = AttentionSpec(
        dtype=q.dtype,
        acc=accumulator(q.dtype),
        batch_rank=len(space.extents) if space is not None else 0,
        score=score,
        score_inputs=tuple(view.dtype for view in extras),
        score_classes=tuple(stride_class(view.strides[-1]) for view in extras),
    )
    low.call(spec, every[:-1], every[-1:])


def _batch_only(view: View) -> View:
    return replace(view, shape=view.shape[:-2], strides=view.strides[:-2])


def lower_conv(node: Node, low: Lowering) -> None:
    """Convolution as a product with a gathering packer, on channels-last memory; depthwise has a kernel of its own."""
    attrs = node.attrs
    x, out_shape = _channels_last(low.view(node.inputs[0]), attrs), node.output.type.shape
    x = low.with_unit_axis(x, -1)
    rank = len(x.shape)
    to_logical = list(range(rank)) if attrs["channels_last"] else [0, rank - 1, *range(1, rank - 1)]
    outs = []
    for value in node.outputs:
        view = low.scratch_dense(value.type.dtype, [out_shape[0], *_spatial(out_shape, attrs), _channels(out_shape, attrs)])
        low.alias(value, views.transpose(view, to_logical))
        outs.append(view)
    extras = [_channels_last(low.broadcast_view(v, out_shape), attrs) for v in node.inputs[3:]]
    acc = accumulator(x.dtype)
    epilogue = node.attrs["epilogue"] or (cast(arg(0, acc), outs[0].dtype),)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        extras.append(views.broadcast(low.view(node.inputs[2]), outs[0].shape))
        biased = arg(0, acc) + cast(arg(len(extras), extras[-1].dtype), acc)
        epilogue = tuple(transform(e, lambda n: biased if n == arg(0, acc) else None) for e in epilogue)
    if any(size == 0 for size in out_shape):
        return
    channels, features = x.shape[-1], outs[0].shape[-1]
    params = window_params(outs[0].shape[1:-1], node.inputs[1].type.shape[2:], attrs, x.shape[1:-1])
    if attrs["group"] > 1 and channels == attrs["group"] == features:
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


def window_params(out: Sequence[Size], kernel: Sequence[Size], attrs: object, sizes: Sequence[Size]) -> tuple[Size, ...]:
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
    shifted = [transform(e, lambda n: arg(n.value + 1, n.dtype) if n.op == "arg" and n.value else None) for e in epilogue]
    emit_window(low, "dot", x, [weights], extras, outs, shifted, acc, params)


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
    w, group, rank = node.inputs[1], node.attrs["group"], len(x.shape)
    features, kernel = w.type.shape[0], w.type.shape[2:]
    # Weights as [group, (kernel.., C/group) = K, O/group = N]: a rearranged constant, packed later.
    k_size = dims.product((*kernel, w.type.shape[1]))
    split = low.rearranged_groups(w, group)
    b = View(split.buffer, split.dtype, (group, k_size, features // group), _dense3(k_size, features // group))
    m_size = dims.product(outs[0].shape[:-1])

    def grouped(view: View) -> View:
        """[N, out.., O] as [group, M, O/group]; the positions must merge into rows."""
        if 0 not in view.strides:
            view = low.with_unit_axis(view, -1)
        flat = low.reshaped(view, (m_size, features))
        columns = features // group
        stride = flat.strides[1]
        return replace(
            flat, shape=(group, m_size, columns), strides=(stride * columns, flat.strides[0], stride)
        )

    outs, extras = [grouped(v) for v in outs], [grouped(v) for v in extras]
    count = len(kernel)
    plain = all(n == 1 for n in (*kernel, *node.attrs["strides"])) and not any(node.attrs["pads"])
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
        a, b, batch = _drop(a, 0), _drop(b, 0), 0
        outs, extras = [_drop(v, 0) for v in outs], [_drop(v, 0) for v in extras]
    spec = gemm_spec(low, a, b, extras, outs, epilogue, acc, batch, window=count)
    low.call(spec, [a, b, *extras], outs, params)


def _dense3(k: Size, n: Size) -> tuple[Size, ...]:
    return (k * n, n, 1)


def pack_groups(w: np.ndarray, group: int) -> np.ndarray:
    """Convolution weights [O, C/group, kernel..] as a dense [group, kernel.., C/group, O/group]."""
    split = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(split, 2, -1), 1, -1))

