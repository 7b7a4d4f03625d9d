"""Triangular matrices: the inverse of a lower one by blocks."""

from __future__ import annotations

import numpy as np

from compiler.builder import Builder
from compiler.expr import arg, const
from compiler.ir import Value
from compiler.ops.elementwise import emit_map
from compiler.ops.shape import known_shape


def inverse_of_unit_lower(b: Builder, lower: Value) -> Value:
    """(I + L)^-1 [.., n, n] for L `lower` below the diagonal (the rest of it is not read), n a power of two.

    Blocks on the diagonal are inverted in pairs, [[A, 0], [C, B]]^-1 = [[A^-1, 0], [-B^-1 C A^-1, B^-1]], from size 1
    up: as accurate as substitution, in log2(n) steps.
    """
    *outer, n, _ = known_shape(lower)
    assert isinstance(n, int) and n & (n - 1) == 0, "the size is a power of two"
    dtype = lower.type.dtype
    flat = b.emit("reshape", lower, b.sizes((*outer, n * n)))
    inverse = b.emit("expand", b.constant(1, dtype=dtype), b.sizes((*outer, n, 1, 1)))
    size = 1
    while size < n:
        count = n // (2 * size)
        first, second = (_every_other(b, inverse, start) for start in (0, 1))
        corner = 2 * size * np.arange(count)[:, None, None]
        rows, columns = corner + size + np.arange(size)[:, None], corner + np.arange(size)
        block = b.emit("take", flat, b.constant(rows * n + columns), axis=len(outer))
        product = b.emit("matmul", second, b.emit("matmul", block, first))
        below = emit_map(b, -arg(0, dtype), product)
        zeros = b.emit("map", outputs=(const(0, dtype),), shape=known_shape(first))
        upper_row = b.emit("concat", first, zeros, axis=-1)
        inverse = b.emit("concat", upper_row, b.emit("concat", below, second, axis=-1), axis=-2)
        size *= 2
    return b.emit("reshape", inverse, b.sizes((*outer, n, n)))


def _every_other(b: Builder, blocks: Value, start: int) -> Value:
    """Every second of the blocks [.., count, size, size]."""
    shape = known_shape(blocks)
    at = len(shape) - 3
    assert isinstance(shape[at], int)
    return b.emit(
        "slice",
        blocks,
        starts=tuple(start if a == at else 0 for a in range(len(shape))),
        sizes=tuple(size // 2 if a == at else size for a, size in enumerate(shape)),
        steps=tuple(2 if a == at else 1 for a in range(len(shape))),
    )
