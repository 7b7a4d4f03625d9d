"""Zero points of 8-bit products: taken off the exact product of the operands as they are, by its epilogue.

The sum of (a - za) * (b - zb) over K is that of a * b, less za times the sum of b's column, less zb times the sum of
a's row, plus K * za * zb: nothing that varies along K but what the operands already are.
"""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import Expr, arg, cast, extent, stat
from compiler.ir import Value
from compiler.types import TensorType

_WHOLE = dtypes.int32


def less_zero_points(a: Expr | None, b: Expr | None) -> Expr:
    """An int32 product's epilogue: the product of its operands less their zero points (None: zero), wrapping."""
    total, columns = arg(0, _WHOLE), stat(1, _WHOLE)
    if b is not None:
        b = cast(b, _WHOLE)
        columns = columns - extent(_WHOLE) * b
        total = total - stat(0, _WHOLE) * b
    return total if a is None else total - cast(a, _WHOLE) * columns


def epilogue_of_zero_points(a: Value | None, b: Value | None) -> tuple[list[Value], tuple[Expr, ...]]:
    """The epilogue's operands and the epilogue that take the zero points off; none where there are none."""
    operands = [zero for zero in (a, b) if zero is not None]
    if not operands:
        return [], ()
    numbers = iter(range(1, 3))
    exprs = [None if zero is None else arg(next(numbers), zero.type.dtype) for zero in (a, b)]  # type: ignore[union-attr]
    return operands, (less_zero_points(*exprs),)


def constant_term(
    a: np.ndarray, w: np.ndarray, zero: np.ndarray | None, axes: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """What the left operand's one zero point takes off a product with constants w, as int64 of `shape`: itself times
    the sums over K, which are `axes` of w, of w less its own zero point. That broadcasts to `shape`."""
    sums = np.sum(w, axes, dtype=np.int64).reshape(shape)
    if zero is not None:
        sums = sums - w.size // max(sums.size, 1) * zero.astype(np.int64)
    return sums * a.astype(np.int64).reshape(())


def needed(b: Builder, zero: Value | None) -> Value | None:
    """A zero point unless it is known to be nothing but zeros."""
    contents = b.contents(zero)
    return None if contents is not None and contents.dtype != object and not contents.astype(bool).any() else zero


def is_constant_along(zero: Value | None, axis: int, x: Value) -> bool:
    """Whether a zero point of a product's operand x has one element along `axis`, -1 or -2, which the product sums
    over, and broadcasts to x otherwise."""
    if zero is None:
        return True
    own, full = (v.type.shape if isinstance(v.type, TensorType) else None for v in (zero, x))
    if own is None or full is None or len(own) > len(full):
        return False
    summed, first = len(full) + axis, len(full) - len(own)
    return all(size == 1 or (size == full[at] and at != summed) for at, size in enumerate(own, first))
