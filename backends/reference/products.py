"""Matrix products in NumPy, exact or with the bits of the matrix units (canonical.product_order, PRODUCT_CHUNK)."""

from __future__ import annotations

import functools

import numpy as np

from compiler import canonical, dtypes
from compiler.evaluate import Mode
from compiler.mathlib.exact import fma32, fma64
from compiler.ops.core_grouped import row_groups


def fma_chain(a: np.ndarray, b: np.ndarray, acc: np.dtype) -> np.ndarray:
    """a [.., M, K] @ b [.., K, N] as one fma chain per element in canonical.product_order from zero, in type `acc`."""
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*shape, a.shape[-2], b.shape[-1]), acc)
    if acc.kind in "iu":
        return np.matmul(a.astype(acc), b.astype(acc))
    fma = fma64 if acc == np.float64 else fma32
    for k in canonical.product_order(dtypes.from_numpy(a.dtype), a.shape[-1]):
        column, row = a[..., k, None].astype(acc), b[..., k, None, :].astype(acc)
        total = fma(np.broadcast_to(column, total.shape), np.broadcast_to(row, total.shape), total)
    return total


def product(a: np.ndarray, b: np.ndarray, acc: np.dtype, mode: Mode, chunks: bool = True) -> np.ndarray:
    """a [.., M, K] @ b [.., K, N] in type `acc`. Emulated, float chains end with every chunk of K unless `chunks` is
    False (attention), and their sums are added in order."""
    if mode == "emulate":
        length = canonical.PRODUCT_CHUNK if chunks and acc.kind == "f" else max(a.shape[-1], 1)
        starts = range(0, max(a.shape[-1], 1), length)
        parts = (fma_chain(a[..., s : s + length], b[..., s : s + length, :], acc) for s in starts)
        return functools.reduce(np.add, parts)
    wide = np.float64 if acc.kind == "f" else acc
    return np.matmul(a.astype(wide), b.astype(wide)).astype(acc)


def grouped_product(a: np.ndarray, b: np.ndarray, ends: np.ndarray, acc: np.dtype, mode: Mode) -> np.ndarray:
    """Each group's rows of a [M, K] times its matrix of b [E, K, N], zeros behind the last group."""
    total = np.zeros((a.shape[0], b.shape[-1]), acc)
    for rows, matrix in zip(row_groups(ends, a.shape[0]), b, strict=True):
        total[rows] = product(a[rows], matrix, acc, mode)
    return total
