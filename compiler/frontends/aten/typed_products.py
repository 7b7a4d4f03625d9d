"""Products whose result has an element type of its own, and other forms of them that few models call."""

from __future__ import annotations

from compiler import dtypes
from compiler.dtypes import DType
from compiler.frontends.aten.base import ROWS, AtenBuilder, aten, compute_type, convert, pointwise
from compiler.frontends.aten.reduce import total
from compiler.ir import Value


@aten("aten.mm.dtype", "aten.bmm.dtype")
def _product_as(b: AtenBuilder, x: Value, y: Value, out_dtype: DType) -> Value:
    return b.emit("matmul", convert(b, x, out_dtype), convert(b, y, out_dtype))


@aten("aten._int_mm.default")
def _int_mm(b: AtenBuilder, x: Value, y: Value) -> Value:
    return _product_as(b, x, y, dtypes.int32)


@aten("aten.addbmm.default")
def _addbmm(b: AtenBuilder, x: Value, y: Value, z: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta x + alpha times the sum over the batch of y z."""
    acc = compute_type(b.dtype)
    products = b.emit("matmul", convert(b, y, acc), convert(b, z, acc))
    summed = total(b, products, [0])
    return pointwise(b, (x, summed), lambda p, q: (p * beta if beta != 1 else p) + (q * alpha if alpha != 1 else q))


@aten("aten._convolution.default", "aten._convolution.deprecated")
def _convolution(b: AtenBuilder, *arguments: object) -> Value:
    return ROWS["aten.convolution.default"](b, *arguments[:9])  # how cuDNN may compute it comes after
