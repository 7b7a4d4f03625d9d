"""ATen calls that mixtures of experts are made of: products of grouped rows, and histograms that count the groups."""

from __future__ import annotations

import numpy as np

from compiler import dims, dtypes
from compiler.expr import Expr, apply, arg, cast, const, select, stat
from compiler.frontends.aten.base import AtenBuilder, aten, convert, reshape, shape_of, tensor_type, unsupported
from compiler.ir import Value
from compiler.kernels import Stage


@aten("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")
def _grouped_mm(
    b: AtenBuilder,
    x: Value,
    y: Value,
    offs: Value | None = None,
    bias: Value | None = None,
    out_dtype: object = None,
) -> Value:
    """x [T, K] by y [E, K, N], the rows of group e ending at offs[e]; without offsets a batched product. Rows behind
    the last group, which torch leaves undefined, are zeros. The second name is transformers' own for the first."""
    if bias is not None:
        raise unsupported(b, "aten._grouped_mm with a bias, which torch has not defined; add it to the product")
    if offs is None:
        return convert(b, b.emit("matmul", x, y), b.dtype)
    ranks = tensor_type(x).rank, tensor_type(y).rank
    if ranks != (2, 3):
        raise unsupported(b, f"aten._grouped_mm with offsets and operands of ranks {ranks}; expected (2, 3)")
    return convert(b, b.emit("grouped_matmul", x, y, offs), b.dtype)


@aten("aten.histc.default")
def _histc(b: AtenBuilder, x: Value, bins: int = 100, low: float = 0, high: float = 0) -> Value:
    """How many elements lie in each of `bins` equal parts of [low, high], both ends included; equal ends stand for the
    smallest and the largest element (one less and one more where they are the same)."""
    dtype = tensor_type(x).dtype
    column = reshape(b, x, [dims.product(shape_of(x)), 1])
    numbers = b.constant(np.arange(bins, dtype=np.int64), "bins")
    element, number = arg(0, dtype), arg(1, dtypes.int64)
    operands = [column, numbers]
    if low == high:
        for fn in ("min", "max"):
            stage = Stage(fn, element)
            found = b.emit("reduce", column, axes=(0, 1), keepdims=True, stages=(stage,), rows=(stat(0, dtype),))
            operands.append(found)
        least, most = arg(2, dtype), arg(3, dtype)
        same = apply("eq", least, most)
        least, most = select(same, least - 1, least), select(same, most + 1, most)
    else:
        least, most = const(low, dtype), const(high, dtype)
    counts = Stage("sum", cast(_falls_into(element, number, bins, least, most), dtypes.int64))
    row = cast(stat(0, dtypes.int64), dtype)
    return b.emit("reduce", *operands, axes=(0,), keepdims=False, stages=(counts,), rows=(row,))


def _falls_into(element: Expr, number: Expr, bins: int, low: Expr, high: Expr) -> Expr:
    """Whether an element falls into a bin, rounded as torch does; the upper end belongs to the last bin."""
    inside = apply("and", apply("le", low, element), apply("le", element, high))
    position = cast(select(inside, (element - low) * const(bins, low.dtype) / (high - low), low * 0), dtypes.int64)
    return apply("and", inside, apply("eq", apply("min", position, const(bins - 1, dtypes.int64)), number))
