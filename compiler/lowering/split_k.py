"""Products of few elements over a long K, shared out over K: each chunk of canonical.PRODUCT_CHUNK products is a matrix
of a batch, and their sums are added up in order. That is what one product would do, so no bit depends on it; but
threads that would find no rows and columns to share have work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compiler import dims, dtypes, views
from compiler.canonical import PRODUCT_CHUNK
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, bitcast, const, select, stat, transform, walk
from compiler.kernels import ReduceSpec, Stage, View
from compiler.lowering.axes import collapse

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

TILE = (8, 64)  # rows and columns of what a thread takes at the least, about
FEW_TILES = 64  # which many cores have done at once, or not share evenly


@dataclass(frozen=True)
class Cut:
    """K in `chunks` whole chunks and a shorter last one of `rest` products, if that is not 0."""

    chunks: Size
    rest: Size


def cut_of(batch: int, m: int, k: int, n: int) -> Cut | None:
    """How to share out a product of these sizes over K; None: not at all, because it has tiles enough, or a single
    whole chunk, which the rest would have to wait for."""
    tiles = batch * -(-m // TILE[0]) * -(-n // TILE[1])
    if k < 2 * PRODUCT_CHUNK or not 0 < tiles <= FEW_TILES:
        return None
    return Cut(*divmod(k, PRODUCT_CHUNK))


def cut_of_views(a: View, out: View, epilogue: Sequence[Expr]) -> Cut | None:
    """The same for [batch.., M, K] and [batch.., M, N]: only where all sizes are numbers, and where the epilogue wants
    no sums over all of K."""
    sizes = (*out.shape, a.shape[-1])
    if not dims.is_static(sizes) or any(node.op not in ("arg", "const") for node in _leaves(epilogue)):
        return None
    *batch, m, n, k = sizes
    return cut_of(dims.product(batch), m, k, n)  # type: ignore[arg-type]


def _leaves(epilogue: Sequence[Expr]) -> Iterator[Expr]:
    return (node for node in walk(tuple(epilogue)) if not node.args)


def parts(cut: Cut, a: View, b: View, sums: View) -> Iterator[tuple[View, View, View]]:
    """Products to compute: operands, and where in `sums` [chunks.., batch.., M, N] their elements go. The rest is one
    chunk, so that the same kernel may serve."""
    yield _chunks(a, -1, cut.chunks), _chunks(b, -2, cut.chunks), _some(sums, cut.chunks, 0)
    if cut.rest != 0:
        yield _rest(a, -1, cut), _rest(b, -2, cut), _some(sums, 1, cut.chunks)


def _some(sums: View, count: Size, first: Size) -> View:
    return replace(sums, shape=(count, *sums.shape[1:]), offset=sums.offset + first * sums.strides[0])


def _chunks(operand: View, axis: int, count: Size, depth: Size = PRODUCT_CHUNK) -> View:
    """The first chunks along K, which is `axis`, as one more axis before all others."""
    shape, stride = list(operand.shape), operand.strides[axis]
    shape[axis] = depth
    return replace(operand, shape=(count, *shape), strides=(stride * PRODUCT_CHUNK, *operand.strides))


def _rest(operand: View, axis: int, cut: Cut) -> View:
    start = cut.chunks * PRODUCT_CHUNK * operand.strides[axis]
    return replace(_chunks(operand, axis, 1, cut.rest), offset=operand.offset + start)


def partial_sums(low: Lowering, cut: Cut, shape: Sequence[Size], acc: DType) -> View:
    """Memory for the sums of all chunks of a product of that shape."""
    return low.scratch_dense(acc, (cut.chunks if cut.rest == 0 else cut.chunks + 1, *shape))


def add_up(low: Lowering, sums: View, extras: Sequence[View], outs: Sequence[View], epilogue: Sequence[Expr]) -> None:
    """The epilogue of the sums added up in order. Not emit_reduce: the order must be this one even of a single element,
    whose sums lie side by side."""
    stages, total = _total(sums.dtype)
    rows = tuple(transform(e, lambda n: total if n.op == "arg" and n.value == 0 else None) for e in epilogue)
    count = sums.shape[0]
    once = [replace(sums, shape=sums.shape[1:], strides=sums.strides[1:]), *extras, *outs]
    space = collapse(once, views.memory_order(once[0]))
    every = [
        View(
            view.buffer,
            view.dtype,
            (*space.extents, count),
            (*space.strides[i], sums.strides[0] if i == 0 else 0),
            view.offset,
        )
        for i, view in enumerate(once)
    ]
    split = 1 + len(extras)
    spec = ReduceSpec(
        inputs=tuple(view.dtype for view in every[:split]),
        stages=stages,
        element_outputs=(),
        row_outputs=rows,
        outer=len(space.extents),
        reduced=1,
        vector_axis="column",
        in_classes=tuple(space.inner_class(i) for i in range(split)),
        out_classes=tuple(space.inner_class(i) for i in range(split, len(every))),
    )
    low.call(spec, every[:split], every[split:])


def _total(acc: DType) -> tuple[tuple[Stage, ...], Expr]:
    """Stages, and the sum they make. A reduction starts from +0, chunks are added to the first of them: that differs
    where all are -0, which products that underflow give."""
    each, total = arg(0, acc), stat(0, acc)
    if not acc.is_float:
        return (Stage("sum", each),), total
    bits = dtypes.int64 if acc.bits == 64 else dtypes.int32
    negative_zero = const(-(1 << acc.bits - 1), bits)
    every = Stage("all", apply("eq", bitcast(each, bits), negative_zero))
    return (Stage("sum", each), every), select(stat(1, dtypes.boolean), const(-0.0, acc), total)
