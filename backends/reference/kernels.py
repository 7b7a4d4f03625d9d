"""Kernel specs in NumPy: a lowered program run call by call.

In *emulate* mode every call computes bit for bit what native kernels compute (products as one fma chain in the
canonical order, reductions in theirs, composites by their expansion); in *truth* mode each call is exact and rounds
once. Slow, small sizes only in emulate mode: this says what is right, kernel by kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from backends.reference.products import grouped_product, product
from backends.reference.recurrence import run_recurrence
from backends.reference.suppress import run_suppress
from compiler import canonical, dtypes
from compiler.dims import Size
from compiler.evaluate import Mode, evaluate
from compiler.expr import Expr, arg, cast
from compiler.kernels import (
    AttentionSpec,
    GemmSpec,
    KernelCall,
    MapSpec,
    MoveSpec,
    ReduceSpec,
    ScatterSpec,
    SortSpec,
    WeightedTakeSpec,
    WindowSpec,
)
from compiler.mathlib.exact import fma32, fma64
from compiler.ops.core_blocks import dequantized
from compiler.ops.core_compute import position, reduce_array
from compiler.ops.core_products import without_weight
from compiler.ops.core_sort import first_places
from compiler.ops.core_weighted_take import START, WeightedTake, step
from compiler.ops.product_reference import operand_sums
from compiler.recurrence import RecurrenceSpec
from compiler.running import RunningSpec
from compiler.suppression import SuppressSpec

Arrays = Sequence[np.ndarray]


def run_call(call: KernelCall, reads: Arrays, writes: Arrays, size: Callable[[Size], int], mode: Mode) -> None:
    """Carry out one kernel call on arrays already viewed as the call's reads and writes (writes are filled)."""
    with np.errstate(all="ignore"):
        _RUN[type(call.spec)](call.spec, reads, writes, mode, [size(p) for p in call.params])


def _map(spec: MapSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    shape = writes[0].shape

    def leaf(node: Expr) -> np.ndarray:
        return reads[node.value] if node.op == "arg" else position(node.value, shape)

    for target, result in zip(writes, evaluate(spec.outputs, leaf, mode), strict=True):
        target[...] = result


def _reduce(spec: ReduceSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    shape = writes[0].shape if writes else reads[0].shape
    axes = tuple(range(spec.outer, spec.outer + spec.reduced))
    count = int(np.prod([shape[a] for a in axes], dtype=np.int64))
    stats: list[np.ndarray] = []
    keeps: dict[int, np.ndarray] = {}

    def leaf(node: Expr) -> np.ndarray:
        if node.op == "arg":
            return reads[node.value]
        if node.op == "index":
            return position(node.value, shape)
        if node.op == "extent":
            return np.asarray(count, node.dtype.numpy)
        return (stats if node.op == "stat" else keeps)[node.value]

    for number, stage in enumerate(spec.stages):
        element = np.broadcast_to(evaluate((stage.expr,), leaf, mode)[0], shape)
        keeps[number] = element
        if mode == "emulate":
            found = canonical.canonical_reduce(stage.fn, element, axes, spec.vector_axis)
            stats.append(found.reshape([1 if a in axes else n for a, n in enumerate(shape)]))
        else:
            stats.append(reduce_array(stage.fn, element, axes))
    split = len(spec.element_outputs)
    for target, result in zip(writes[:split], evaluate(spec.element_outputs, leaf, mode), strict=True):
        target[...] = result
    # Even a row without elements has results: what they read and where they go repeats along the row.
    row = [1 if a in axes else n for a, n in enumerate(shape)]
    reads, writes = ([as_strided(x, row, x.strides) for x in arrays] for arrays in (reads, writes))
    for target, result in zip(writes[split:], evaluate(spec.row_outputs, leaf, mode), strict=True):
        target[...] = result


def _gemm(spec: GemmSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    fill = reads[spec.fill + 1].flat[0] if spec.fill else np.zeros((), reads[0].dtype)
    a = _columns(reads[0], spec, params, fill) if spec.window else reads[0]
    b = reads[1] if spec.codes is None else _weights(spec, reads, params[0])
    acc = spec.acc.numpy
    total = grouped_product(a, b, reads[-1], acc, mode) if spec.ends else product(a, b, acc, mode)

    def leaf(node: Expr) -> np.ndarray:
        if node.op != "arg":
            return operand_sums(a, b, node)
        return reads[node.value + 1] if node.value else total

    for target, result in zip(writes, evaluate(spec.epilogue, leaf, mode), strict=True):
        target[...] = result


def _weights(spec: GemmSpec, reads: Arrays, group: int) -> np.ndarray:
    """B, of codes and what lies behind the epilogue's operands."""
    scales, *zeros = reads[2 + len(spec.epilogue_inputs) :]
    return dequantized(reads[1], scales, zeros[0] if zeros else None, group, spec.b)


def _windows(
    x: np.ndarray, spatial: int, params: list[int], fill: np.ndarray | np.generic
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """For each kernel position in row order: its coordinates, the elements [.., N, out.., C] it meets (`fill` outside
    the input) and where it is inside [out..]."""
    out, kernel, strides, dilations, pads, sizes = (params[i * spatial : (i + 1) * spatial] for i in range(6))
    lead = x.ndim - spatial - 1
    if 0 in sizes:  # nothing but padding
        x = np.zeros((*x.shape[:lead], *[1] * spatial, x.shape[-1]), x.dtype)
    for at in np.ndindex(*kernel):
        picks, inside = [], np.ones([1] * spatial, bool)
        for axis in range(spatial):
            where = np.arange(out[axis]) * strides[axis] + at[axis] * dilations[axis] - pads[axis]
            valid = (where >= 0) & (where < sizes[axis])
            inside = inside & valid.reshape([-1 if a == axis else 1 for a in range(spatial)])
            picks.append(np.clip(where, 0, x.shape[lead + axis] - 1))
        taken = x[(slice(None),) * lead + np.ix_(*picks)] if spatial else x
        yield at, np.where(inside[..., None], taken, fill), inside


def _columns(x: np.ndarray, spec: GemmSpec, params: list[int], fill: np.ndarray | np.generic) -> np.ndarray:
    """The gathered left operand [batch.., M, K] of a convolution."""
    parts = [taken for _, taken, _ in _windows(x, spec.window, params, fill)]
    stacked = np.stack(parts, axis=-2)  # [batch.., N, out.., positions, C]
    batch = x.shape[: spec.batch_rank]
    return stacked.reshape(*batch, -1, stacked.shape[-2] * stacked.shape[-1])


def _window(spec: WindowSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    lead = 2 if spec.fn == "dot" else 1
    acc = spec.acc.numpy
    out = writes[0].shape
    total = np.full(out, canonical.identity("max", acc) if spec.fn == "max" else 0, acc)
    count = np.zeros(out, acc)
    exact = acc.kind in "iu" or mode == "emulate"
    wide = acc if exact else np.dtype(np.float64)
    total = total.astype(wide)
    for at, taken, inside in _windows(reads[0], spec.spatial, params, np.zeros((), reads[0].dtype)):
        here = np.broadcast_to(inside[..., None], out)
        x = taken.astype(wide)
        if spec.fn == "max":
            fresh = np.where((x > total) | (x != x), x, total)
        elif spec.fn == "sum":
            fresh = total + x
        else:
            weight = np.broadcast_to(reads[1][at].astype(wide), out)
            fused = {"f": fma64 if wide == np.float64 else fma32}.get(wide.kind, lambda a, b, c: a * b + c)
            fresh = fused(x, weight, total)
        total = np.where(here, fresh, total)
        count += here.astype(acc)
    total = total.astype(acc)

    def leaf(node: Expr) -> np.ndarray:
        return (total, count)[node.value] if node.value < 2 else reads[lead + node.value - 2]

    for target, result in zip(writes, evaluate(spec.epilogue, leaf, mode), strict=True):
        target[...] = result


def _attention(spec: AttentionSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    q, k, v = reads[:3]
    acc = spec.acc.numpy
    dots = product(q, k.swapaxes(-1, -2), acc, mode, chunks=False)
    lead = dots.ndim - 2

    def leaf(node: Expr) -> np.ndarray:
        if node.op == "index":
            return position(node.value + lead, dots.shape)
        return reads[node.value + 2] if node.value else dots

    scores = np.broadcast_to(evaluate((spec.score,), leaf, mode)[0], dots.shape)
    top = canonical.canonical_reduce("max", scores, -1)[..., None]
    base = np.where(np.isneginf(top), np.zeros((), acc), top)
    x = arg(0, dtypes.from_numpy(acc))
    weights = _exp(scores - base, x, mode)
    sums = canonical.canonical_sum(weights, -1)[..., None] if mode == "emulate" else weights.sum(-1, keepdims=True)
    result = product(weights, v, acc, mode, chunks=False) / sums
    zero = without_weight(sums, spec.zero_rows) | (k.shape[-2] == 0)
    writes[0][...] = np.where(zero, np.zeros((), acc), result)


def _exp(x: np.ndarray, leaf: Expr, mode: Mode) -> np.ndarray:
    return evaluate((Expr("exp", leaf.dtype, (leaf,)),), lambda node: x, mode)[0]


def _move(spec: MoveSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    if spec.kind == "copy":
        writes[0][...] = reads[0]
    elif spec.kind == "take":
        writes[0][...] = np.take(reads[0], reads[1].astype(np.int64), axis=1)
    else:
        writes[0][...] = np.take_along_axis(reads[0], reads[1].astype(np.int64), axis=1)


def _scatter(spec: ScatterSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    updates, index, table = *reads, writes[0]

    def combined(there: np.ndarray, update: np.ndarray) -> np.ndarray:
        return evaluate((spec.combine,), lambda node: (there, update)[node.value], mode)[0]

    for i in range(updates.shape[1]):
        places = index[:, i : i + 1].astype(np.int64)
        there = np.take_along_axis(table, places, axis=1)
        np.put_along_axis(table, places, combined(there, updates[:, i : i + 1]), axis=1)


def _recurrence(spec: RecurrenceSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    run_recurrence(spec, reads, writes, mode, params, functools.partial(product, chunks=False))


def _sort(spec: SortSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    places = first_places(reads[0], writes[0].shape[1], 1, spec.descending)
    results = [np.take_along_axis(reads[0], places, 1)] * spec.values + [places] * spec.indices
    for target, result in zip(writes, results, strict=True):
        target[...] = result


def _weighted_take(spec: WeightedTakeSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    rows, index, weights = reads
    if mode == "truth":
        assert WeightedTake.reference is not None
        writes[0][...] = WeightedTake.reference(rows, index, weights, fn=spec.fn)
        return
    total = np.full(writes[0].shape, START[spec.fn], spec.acc.numpy)
    combine, finish = step(spec.fn, spec.dtype, spec.acc), cast(arg(2, spec.acc), spec.dtype)
    for place, weight in zip(index, weights[..., None], strict=True):
        row = np.take_along_axis(rows, place[..., None].astype(np.int64), 1)
        operands = (row, np.broadcast_to(weight, total.shape), total)
        after = evaluate((combine,), lambda node, operands=operands: operands[node.value], mode)[0]  # type: ignore[misc]
        total = np.where((weight == 0) & (spec.fn == "sum"), total, after)
    writes[0][...] = evaluate((finish,), lambda node: total, mode)[0]


def _running(spec: RunningSpec, reads: Arrays, writes: Arrays, mode: Mode, params: list[int]) -> None:
    (x,), (y,) = reads, writes
    state = np.full((x.shape[0], x.shape[2]), spec.start, spec.combine.dtype.numpy)

    def value(expr: Expr, *operands: np.ndarray) -> np.ndarray:
        return evaluate((expr,), lambda node: operands[node.value], mode)[0]

    for i in range(x.shape[1]):
        after = value(spec.combine, state, x[:, i])
        y[:, i] = value(spec.result, state if spec.exclusive else after)
        state = after


_RUN: Mapping[type, Callable[..., None]] = {
    MapSpec: _map,
    ReduceSpec: _reduce,
    GemmSpec: _gemm,
    WindowSpec: _window,
    AttentionSpec: _attention,
    MoveSpec: _move,
    RecurrenceSpec: _recurrence,
    RunningSpec: _running,
    ScatterSpec: _scatter,
    SortSpec: _sort,
    SuppressSpec: run_suppress,
    WeightedTakeSpec: _weighted_take,
}
