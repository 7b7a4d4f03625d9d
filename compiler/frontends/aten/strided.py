"""ATen calls that speak of memory rather than of elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, const
from compiler.expr import index as position
from compiler.frontends.aten.base import AtenBuilder, aten, pointwise, reshape, shape_of, tensor_type, unsupported
from compiler.frontends.aten.reduce import vector_norm
from compiler.ir import Value


@aten("aten.as_strided.default")
def _as_strided(
    b: AtenBuilder, x: Value, shape: Sequence[Size], strides: Sequence[Size], offset: Size | None = None
) -> Value:
    """Elements at offset + sum of index * stride in the memory of x, which must be row-major."""
    if not b.row_major():
        raise unsupported(b, "aten.as_strided of a tensor that is not contiguous; call .contiguous() before it")
    places = b.emit("map", outputs=(const(0, dtypes.int64),), shape=tuple(shape), hint="places")

    def build(start: Expr, *steps: Expr) -> Expr:
        total = start
        for axis, step in enumerate(steps[1:]):
            total = total + position(axis) * step
        return total

    operands = (0 if offset is None else offset, places, *strides)
    places = pointwise(b, operands, build, dtypes.int64, dtypes.int64)
    return b.emit("take", reshape(b, x, [tensor_type(x).elements]), places, axis=0)


@aten("aten.view.dtype")
def _view_as(b: AtenBuilder, x: Value, dtype: DType) -> Value:
    held = tensor_type(x).dtype
    if held.bytes != dtype.bytes or held == dtypes.boolean or dtype == dtypes.boolean:
        raise unsupported(b, f"{held} elements seen as {dtype}; expected types of the same size, bool not among them")
    return x if held == dtype else b.emit("reinterpret", x, to=dtype)


@aten("aten._pdist_forward.default")
def _pdist(b: AtenBuilder, x: Value, order: float = 2) -> Value:
    """The distances of all pairs i < j of rows of x [N, M], in the order (0, 1), (0, 2), .., (1, 2), .."""
    count = shape_of(x)[0]
    if not isinstance(count, int):
        raise unsupported(b, "pdist of a number of rows that varies; use torch.cdist")
    first, second = np.triu_indices(count, 1)
    rows = [b.emit("take", x, b.constant(places.astype(np.int64), "pairs"), axis=0) for places in (first, second)]
    return vector_norm(b, pointwise(b, rows, lambda p, q: p - q), order, [1])
