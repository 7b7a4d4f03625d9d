"""The canonical order of reductions: what every backend must reproduce bit for bit (design rule 7).

A row is the reduced elements flattened in row order. Along a row ("row" order):

1. LANES = 64 accumulators start at the identity (sum 0, prod 1, max and min the least and greatest value, any False,
   all True; argmax and argmin no element).
2. Accumulator l takes elements l, l + 64, l + 128, ... in that order: acc = op(acc, element).
3. A tree joins them: for half = 32, 16, 8, 4, 2, 1: acc[l] = op(acc[l], acc[l + half]) for l < half. The result is
   acc[0].

Where rows are short and many lie side by side ("column" order) one accumulator starts at the identity and takes every
element in row order. Which order a reduction uses is part of its kernel spec (ReduceSpec.vector_axis).

op rounds to the accumulator's type each time; max(a, b) is b where b > a or b is NaN, else a (so the order matters
for the sign of zero alone); argmax keeps the earlier index among equals and the first NaN of all.

A product's element is one chain of fused multiply-adds over ascending k, but that bfloat16 is taken in pairs, the
second of a pair first: so machines with instructions for it do, and the others follow. Float chains end after every
PRODUCT_CHUNK products, and their sums are added in order: so a product of few elements over many can be shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType

LANES = 64
PRODUCT_CHUNK = 8192
PAIRED = dtypes.bfloat16

Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def product_order(dtype: DType, k: int) -> np.ndarray:
    """The indices along K, [k], in the order in which a product of operands of `dtype` adds them up."""
    order = np.arange(k)
    if dtype == PAIRED:
        pairs = k // 2 * 2
        order[:pairs] = order[:pairs].reshape(-1, 2)[:, ::-1].reshape(-1)
    return order


def canonical_sum(array: np.ndarray, axis: int | Sequence[int] = -1) -> np.ndarray:
    """The sum over `axis` in row order, in the array's own type."""
    return canonical_reduce("sum", array, axis)


def canonical_reduce(fn: str, array: np.ndarray, axis: int | Sequence[int] = -1, order: str = "row") -> np.ndarray:
    """`fn` (sum, prod, max, min, any, all, argmax, argmin) over `axis` as kernels compute it: stages of a
    ReduceSpec. The result has the array's type, for argmax and argmin int64 (0 for an empty row)."""
    rows = _flatten(array, (axis,) if isinstance(axis, int) else tuple(axis))
    if fn in ("argmax", "argmin"):
        return _arg_extremum(fn, rows)
    op, start = _OPS[fn], identity(fn, rows.dtype)
    lanes = LANES if order == "row" else 1
    blocks = -(-rows.shape[-1] // lanes)
    padded = np.full((*rows.shape[:-1], blocks * lanes), start, rows.dtype)
    padded[..., : rows.shape[-1]] = rows
    accumulator = np.full((*rows.shape[:-1], lanes), start, rows.dtype)
    with np.errstate(all="ignore"):
        for block in range(blocks):
            accumulator = op(accumulator, padded[..., block * lanes : (block + 1) * lanes])
        while accumulator.shape[-1] > 1:
            half = accumulator.shape[-1] // 2
            accumulator = op(accumulator[..., :half], accumulator[..., half:])
    return accumulator[..., 0]


def identity(fn: str, dtype: np.dtype) -> float | int | bool:
    """What an empty row reduces to. For argmax and argmin: the identity of max and min."""
    fn = fn.removeprefix("arg")
    if fn in ("sum", "prod"):
        return 0 if fn == "sum" else 1
    if fn in ("any", "all"):
        return fn == "all"
    if dtype.kind == "b":
        return fn == "min"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return int(limits.min if fn == "max" else limits.max)
    return float("-inf") if fn == "max" else float("inf")


def _flatten(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    reduced = sorted(axis % array.ndim for axis in axes)
    outer = [axis for axis in range(array.ndim) if axis not in reduced]
    shape = [array.shape[axis] for axis in outer]
    count = int(np.prod([array.shape[axis] for axis in reduced]))
    return array.transpose(*outer, *reduced).reshape(*shape, count)


def _arg_extremum(fn: str, rows: np.ndarray) -> np.ndarray:
    if rows.shape[-1] == 0:
        return np.zeros(rows.shape[:-1], np.int64)
    return (np.argmax if fn == "argmax" else np.argmin)(rows, axis=-1).astype(np.int64)


def _max(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((b > a) | (b != b), b, a)


def _min(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((b < a) | (b != b), b, a)


_OPS: dict[str, Combine] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": _max,
    "min": _min,
    "any": np.logical_or,
    "all": np.logical_and,
}
