"""ATen calls that reduce runs of rows: bags of embeddings, segments of a tensor."""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.expr import Expr, apply, const, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    axis_of,
    convert,
    pointwise,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    unsupported,
)
from compiler.frontends.aten.scatter import REDUCTIONS, along
from compiler.ir import Value
from compiler.ops.core_compute import identity


def _segment_of(b: AtenBuilder, starts: Value, count: Size) -> Value:
    """The segment each of `count` rows is in, by the rows segments start at, ascending; of those that start at one row
    the last has it."""
    zeros = _filled(b, 0, (count + 1,), dtypes.int64)
    ones = b.emit("expand", b.constant(1, "one", dtypes.int64), b.sizes(shape_of(starts)))
    marks = b.emit("scatter_elements", zeros, starts, ones, axis=0, reduction="add")
    started = b.emit("cum_sum", slice_axis(b, marks, 0, 0, count), b.constant(0))
    return pointwise(b, (started,), lambda n: n - 1, dtypes.int64, dtypes.int64)


def _filled(b: AtenBuilder, value: float, shape: tuple[Size, ...], dtype: dtypes.DType) -> Value:
    return b.emit("map", outputs=(const(value, dtype),), shape=shape, hint="filled")


def _reduced(b: AtenBuilder, rows: Value, segment: Value, segments: Size, reduction: str, start: float) -> Value:
    """Rows [I, R..] combined into `segments` rows that hold `start` before."""
    table = _filled(b, start, (segments, *shape_of(rows)[1:]), tensor_type(rows).dtype)
    return b.emit("scatter_elements", table, along(b, segment, 0, rows), rows, axis=0, reduction=reduction)


def _counted(b: AtenBuilder, counted: Value, segment: Value, segments: Size, rank: int) -> Value:
    """How many of `counted` (a boolean vector) are true in each segment: [segments, 1..] of a rank."""
    ones = convert(b, counted, dtypes.int64)
    count = _reduced(b, ones, segment, segments, "add", 0)
    return reshape(b, count, [segments, *[1] * (rank - 1)])


_BAGS = ("sum", "mean", "amax")


@aten("aten._embedding_bag_forward_only.default", "aten._embedding_bag.default", "aten.embedding_bag.padding_idx")
def _embedding_bag(
    b: AtenBuilder,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = -1,
) -> tuple[Value | None, ...]:
    """The rows of `weight` each bag of indices picks, reduced; a bag of nothing gives zeros. Only the first of torch's
    results exists: the rest serves its gradients."""
    (count,) = shape_of(indices)
    bags: Size = shape_of(offsets)[0] - 1 if include_last_offset else shape_of(offsets)[0]
    segment = _segment_of(b, slice_axis(b, offsets, 0, 0, bags), count)
    rows = b.emit("take", weight, indices, axis=0)
    padding = shape_of(weight)[0] if padding_idx is None or padding_idx < 0 else padding_idx
    counted = pointwise(b, (indices, padding), lambda i, p: apply("ne", i, p), dtypes.int64, dtypes.boolean)
    column = reshape(b, counted, [count, 1])
    reduction, neutral = REDUCTIONS[_BAGS[mode]]
    nothing = float(identity(neutral, b.dtype.numpy))
    rows = pointwise(b, (column, rows), lambda c, e: select(c, e, const(nothing, e.dtype)), b.dtype, raw=1)
    if per_sample_weights is not None:
        rows = pointwise(b, (rows, reshape(b, per_sample_weights, [count, 1])), lambda e, w: e * w)
    total = _reduced(b, rows, segment, bags, reduction, nothing)
    sizes = _counted(b, counted, segment, bags, 2)

    def build(t: Expr, n: Expr) -> Expr:
        if _BAGS[mode] == "mean":
            return t / apply("max", n, const(1, n.dtype))
        return select(apply("eq", n, const(0, n.dtype)), const(0, t.dtype), t)

    return pointwise(b, (total, sizes), build), None, None, None


_SEGMENTS = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin", "mean": "mean"}


@aten("aten.segment_reduce.default")
def _segment_reduce(
    b: AtenBuilder,
    data: Value,
    reduce: str,
    *,
    lengths: Value | None = None,
    indices: Value | None = None,
    offsets: Value | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Value:
    """Runs of rows of `data` reduced, given their lengths or where they start (and, last, end)."""
    if axis_of(axis, tensor_type(data).rank) or indices is not None:
        raise unsupported(b, f"segment_reduce along axis {axis}{' by indices' if indices is not None else ''}")
    if lengths is not None:
        segments = shape_of(lengths)[0]
        starts = b.emit("cum_sum", convert(b, lengths, dtypes.int64), b.constant(0), exclusive=1)
    elif offsets is not None:
        segments = shape_of(offsets)[0] - 1
        starts = slice_axis(b, offsets, 0, 0, segments)
    else:
        raise unsupported(b, "segment_reduce without lengths or offsets")
    count, rank = shape_of(data)[0], tensor_type(data).rank
    segment = _segment_of(b, starts, count)
    reduction, neutral = REDUCTIONS[_SEGMENTS[reduce]]
    nothing = float(identity(neutral, b.dtype.numpy)) if initial is None else initial
    total = _reduced(b, data, segment, segments, reduction, nothing)
    if reduce != "mean":
        return total
    sizes = _counted(b, _filled(b, True, (count,), dtypes.boolean), segment, segments, rank)
    empty = np.nan if initial is None else initial

    def build(t: Expr, n: Expr) -> Expr:
        return select(apply("eq", n, const(0, n.dtype)), const(empty, t.dtype), t / n)

    return pointwise(b, (total, sizes), build)
