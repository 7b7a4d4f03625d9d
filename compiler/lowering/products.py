"""Matrix products, convolutions and attention onto kernel calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler import dims, dtypes, views
from compiler.dtypes import DType
from compiler.expr import Expr, arg, cast, index, stat, transform
from compiler.ir import Node
from compiler.kernels import GENERAL, AttentionSpec, GemmSpec, View
from compiler.lowering import split_k
from compiler.lowering.axes import collapse, stride_class
from compiler.lowering.split_k import Cut

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


def accumulator(dtype: DType) -> DType:
    """The type products of `dtype` are summed in: at least 32 bits; integers wrap."""
    if dtype.is_float:
        return dtypes.float32 if dtype.bits < 32 else dtype
    return dtypes.int32 if dtype.bits < 32 else dtype


def are_bytes(*types: DType) -> bool:
    """Whether all are int8 or uint8."""
    return all(dtype in (dtypes.int8, dtypes.uint8) for dtype in types)


def is_byte_product(a: DType, b: DType, acc: DType | None) -> bool:
    """Whether this is a product of 8-bit integers, of one type or of both, asked for in int32."""
    return acc == dtypes.int32 and are_bytes(a, b)


def lower_matmul(node: Node, low: Lowering, cut: Cut | None = None) -> None:
    """C = A @ B with its epilogue. A constant left operand becomes the packed right one of the transposed product. cut:
    see emit_gemm."""
    a, b = (low.view(v) for v in node.inputs[:2])
    shape = node.output.type.shape
    extras = [low.broadcast_view(v, shape) for v in node.inputs[2:]]
    acc = node.attrs["acc"] or accumulator(a.dtype)
    epilogue = node.attrs["epilogue"] or (cast(arg(0, acc), node.output.type.dtype),)
    a, b = multiplied(low, a, b, acc)
    rank = len(shape)
    swap = low.is_weight(a) and not low.is_weight(b) and len(a.shape) == 2 and _is_left(_flipped(b), a)
    order = [*range(rank - 2), rank - 1, rank - 2] if swap else None
    outs = [low.allocate(value, order) for value in node.outputs]
    if swap:
        a, b = _flipped(b), _flipped(a)
        outs, extras = [_flipped(v) for v in outs], [_flipped(v) for v in extras]
        epilogue = [transform(e, lambda n: stat(1 - n.value, n.dtype) if n.op == "stat" else None) for e in epilogue]
    batch = shape[:-2]
    a = views.broadcast(with_unit_depth(low, a), (*batch, *a.shape[-2:]))
    b = views.broadcast(b, (*batch, *b.shape[-2:]))
    emit_gemm(low, a, b, extras, outs, epilogue, acc, cut)


def _flipped(view: View) -> View:
    """The matrices transposed."""
    rank = len(view.shape)
    return views.transpose(view, [*range(rank - 2), rank - 1, rank - 2])


def _is_left(a: View, instead: View) -> bool:
    """Whether `a` may as well be the left operand as `instead`: whether that costs no copy more."""
    return a.dtype.bits >= 32 or a.strides[-1] == 1 or instead.strides[-1] != 1


def multiplied(low: Lowering, a: View, b: View, acc: DType) -> tuple[View, View]:
    """A product's operands in types that GemmSpec multiplies; others are converted to `acc`, which is exact."""
    floats = a.dtype == b.dtype and a.dtype.is_float and acc == accumulator(a.dtype)
    if floats or is_byte_product(a.dtype, b.dtype, acc):
        return a, b
    return computed(low, a, acc), computed(low, b, acc)


def computed(low: Lowering, view: View, acc: DType) -> View:
    """An operand in the type it is summed in: where a kernel multiplies nothing else, or no mixture."""
    return view if view.dtype == acc else low.converted(view, acc)


def with_unit_depth(low: Lowering, a: View) -> View:
    """A left operand as matrix units take it: of narrow types they read several elements along K at once, which must
    be neighbours."""
    if a.dtype.bits >= 32:
        return a
    a = low.with_unit_axis(a, -1)
    return replace(a, strides=(*a.strides[:-1], 1)) if a.shape[-1] == 1 else a


def emit_gemm(
    low: Lowering,
    a: View,
    b: View,
    extras: Sequence[View],
    outs: Sequence[View],
    epilogue: Sequence[Expr],
    acc: DType,
    cut: Cut | None = None,
) -> None:
    """One product on views [batch.., M, K], [batch.., K, N], [batch.., M, N] with matching batch axes. cut: how it
    is shared out over K, where known sizes do not say."""
    if any(size == 0 for size in outs[0].shape):
        return
    a, b, extras, outs = fold_batch(with_unit_depth(low, a), b, list(extras), list(outs))
    cut = cut or split_k.cut_of_views(a, outs[0], epilogue)
    if cut is None:
        _emit_one(low, a, b, extras, outs, epilogue, acc)
        return
    sums = split_k.partial_sums(low, cut, outs[0].shape, acc)
    for left, right, part in split_k.parts(cut, a, b, sums):
        _emit_one(low, left, right, [], [part], (arg(0, acc),), acc)
    split_k.add_up(low, sums, extras, outs, epilogue)


def _emit_one(
    low: Lowering, a: View, b: View, extras: list[View], outs: list[View], epilogue: Sequence[Expr], acc: DType
) -> None:
    low.call(gemm_spec(low, a, b, extras, outs, epilogue, acc, len(a.shape) - 2), [a, b, *extras], outs)


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
    ends: DType | None = None,
    fill: int = 0,
) -> GemmSpec:
    """The spec of a product on these views."""
    return GemmSpec(
        a=a.dtype,
        b=b.dtype,
        acc=acc,
        batch_rank=batch_rank,
        a_axis="row" if window else matrix_axis(a),
        b_axis=matrix_axis(b),
        constant_b=low.is_weight(b) and dims.is_static(b.shape),  # not if repeated over a named batch size
        epilogue=tuple(epilogue),
        epilogue_inputs=tuple(view.dtype for view in extras),
        epilogue_classes=tuple(stride_class(view.strides[-1]) for view in extras),
        out_classes=tuple(stride_class(view.strides[-1]) for view in outs),
        window=window,
        ends=ends,
        fill=fill,
        splits=low.splits,
    )


def lower_grouped_matmul(node: Node, low: Lowering) -> None:
    """Rows of A times the matrix of their group, with an epilogue."""
    a, b, ends = (low.view(v) for v in node.inputs[:3])
    shape = node.output.type.shape
    extras = [low.broadcast_view(v, shape) for v in node.inputs[3:]]
    outs = [low.allocate(value) for value in node.outputs]
    if any(size == 0 for size in shape):
        return
    acc = accumulator(a.dtype)
    if not a.dtype.is_float:  # units that multiply bytes are given sums of all of B, not of each group's matrix
        a, b = computed(low, a, acc), computed(low, b, acc)
    a = with_unit_depth(low, a)
    epilogue = node.attrs["epilogue"] or (cast(arg(0, acc), outs[0].dtype),)
    spec = gemm_spec(low, a, b, extras, outs, epilogue, acc, 0, ends=ends.dtype)
    low.call(spec, [a, b, *extras, ends], outs)


def lower_block_matmul(node: Node, low: Lowering) -> None:
    """Rows of A times a weight stored as codes, with an epilogue."""
    x, codes, scales = (low.view(v) for v in node.inputs[:3])
    zeros = [low.view(v) for v in node.inputs[3:4] if v is not None]
    shape = node.output.type.shape
    extras = [low.broadcast_view(v, shape) for v in node.inputs[4:]]
    outs = [low.allocate(value) for value in node.outputs]
    if any(size == 0 for size in shape):
        return
    acc = accumulator(x.dtype)
    epilogue = node.attrs["epilogue"] or (cast(arg(0, acc), outs[0].dtype),)
    repeated = views.broadcast(codes, (*shape[:-2], *codes.shape))
    a, _, extras, outs = fold_batch(with_unit_depth(low, x), repeated, extras, outs)
    spec = gemm_spec(low, a, codes, extras, outs, epilogue, acc, len(a.shape) - 2)
    spec = replace(spec, b=a.dtype, codes=codes.dtype, zeros=zeros[0].dtype if zeros else None)
    low.call(spec, [a, codes, *extras, scales, *zeros], outs, (node.attrs["group"],))


def matrix_axis(view: View) -> str:
    """Which of the last two axes is contiguous."""
    return "row" if view.strides[-1] == 1 else "column" if view.strides[-2] == 1 else GENERAL


def fold_batch(a: View, b: View, extras: list[View], outs: list[View]) -> tuple[View, View, list[View], list[View]]:
    """Batch axes merged with one another, and into the rows where B does not depend on them: [B, S, K] @ [K, N] is one
    product of B*S rows."""
    rows = [a, *extras, *outs]
    while len(a.shape) > 2 and (
        a.shape[-3] == 1
        or (b.strides[-3] == 0 and all(views.mergeable(v.strides[-3], v.shape[-2], v.strides[-2]) for v in rows))
    ):
        rows = [_merge(v, len(v.shape) - 3) for v in rows]
        b = without_axis(b, len(b.shape) - 3)
        a = rows[0]
    every = [*rows, b]
    axis = 0
    while axis < len(a.shape) - 3:
        if every[0].shape[axis] == 1:
            every = [without_axis(v, axis) for v in every]
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


def without_axis(view: View, axis: int) -> View:
    """Without an axis whose extent is 1 or whose stride is 0."""
    return replace(
        view,
        shape=(*view.shape[:axis], *view.shape[axis + 1 :]),
        strides=(*view.strides[:axis], *view.strides[axis + 1 :]),
    )


def lower_attention(node: Node, low: Lowering) -> None:
    """Fused attention; q, k and v must be contiguous along the head, else they are copied."""
    acc = accumulator(node.output.type.dtype)
    given = [low.with_unit_axis(low.view(value), -1) for value in node.inputs[:3]]
    if any(view.dtype != acc for view in given):
        low.remark(f"its operands are widened to {acc} first")
    q, k, v = (computed(low, view, acc) for view in given)
    # Results lie as the queries do: heads split from [B, L, H*E] are joined again without a copy.
    rank = len(q.shape)
    order = [*(a for a in views.memory_order(q) if a != rank - 1), rank - 1]
    out = result = low.allocate(node.output, order)
    if result.dtype != acc:
        out = low.scratch_dense(acc, result.shape, order)
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
        acc=acc,
        batch_rank=len(space.extents) if space is not None else 0,
        score=score,
        score_inputs=tuple(view.dtype for view in extras),
        score_classes=tuple(stride_class(view.strides[-1]) for view in extras),
        zero_rows=node.attrs["zero_rows"],
    )
    low.call(spec, every[:-1], every[-1:])
    if result.dtype != acc:
        low.map((cast(arg(0, acc), result.dtype),), [out], [result])


def _batch_only(view: View) -> View:
    return replace(view, shape=view.shape[:-2], strides=view.strides[:-2])
