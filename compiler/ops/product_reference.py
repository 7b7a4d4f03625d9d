"""What the references of matmul, conv and grouped_matmul share: exact products in NumPy, and their epilogues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.evaluate import evaluate
from compiler.expr import Expr
from compiler.lowering.products import accumulator, are_bytes, is_byte_product


def exact_product(a: np.ndarray, b: np.ndarray, acc: DType | None) -> np.ndarray:
    """a @ b: floats in float64, integers in `acc` (None: the default one), wrapping."""
    types = [dtypes.from_numpy(x.dtype) for x in (a, b)]
    acc = acc or accumulator(types[0])
    if are_bytes(*types):  # float64 holds these sums, and NumPy multiplies nothing else fast
        return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64).astype(acc.numpy)
    exact = np.float64 if acc.is_float else acc.numpy
    return np.matmul(a.astype(exact, copy=False), b.astype(exact, copy=False))


def operand_sums(a: np.ndarray, b: np.ndarray, leaf: Expr) -> np.ndarray:
    """What the leaves stat(0), stat(1) and extent of a product's epilogue stand for (see kernels.GemmSpec)."""
    if leaf.op == "extent":
        return np.asarray(a.shape[-1]).astype(leaf.dtype.numpy)
    x, axis = ((a, -1), (b, -2))[leaf.value]
    return np.sum(x, axis, dtype=leaf.dtype.numpy, keepdims=True)


def finish(
    product: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    acc: DType | None,
    epilogue: Sequence[Expr],
    extra: Sequence[np.ndarray],
    arranged: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Any:
    """The epilogue of an exact product of a and b, rounded once to the accumulator type. `arranged` brings what
    broadcasts against a @ b into the order of `product`."""
    types = [dtypes.from_numpy(x.dtype) for x in (a, b)]
    if not epilogue:
        plain = dtypes.int32 if is_byte_product(types[0], types[1], acc) else types[0]
        return product.astype(plain.numpy, copy=False)
    total = product.astype((acc or accumulator(types[0])).numpy, copy=False)

    def value(leaf: Expr) -> np.ndarray:
        if leaf.op == "arg":
            return extra[leaf.value - 1] if leaf.value else total
        sums = operand_sums(a, b, leaf)
        return sums if leaf.op == "extent" else arranged(sums)

    with np.errstate(all="ignore"):
        results = evaluate(tuple(epilogue), value, "truth")
    return tuple(np.array(np.broadcast_to(r, total.shape)) for r in results)
