"""Products whose result has an element type of its own, and other forms of them that few models call."""

from __future__ import annotations

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import arg
from compiler.frontends.aten.base import ROWS, AtenBuilder, aten, compute_type, convert, pointwise, tensor_type
from compiler.frontends.aten.reduce import total
from compiler.ir import Value
from compiler.lowering.products import accumulator, is_byte_product


@aten("aten.mm.dtype", "aten.bmm.dtype")
def _product_as(b: AtenBuilder, x: Value, y: Value, out_dtype: DType) -> Value:
    """The product in a type of its own: of operands as they are where they are summed in it, else converted to it."""
    types = [tensor_type(v).dtype for v in (x, y)]
    if is_byte_product(types[0], types[1], out_dtype):
        return b.emit("matmul", x, y, acc=out_dtype)
    if types[0] == types[1] != out_dtype == accumulator(types[0]):
        return b.emit("matmul", x, y, epilogue=(arg(0, out_dtype),))
    return b.emit("matmul", convert(b, x, out_dtype), convert(b, y, out_dtype))


@aten("aten._int_mm.default")
def _int_mm(b: AtenBuilder, x: Value, y: Value) -> Value:
    return _product_as(b, x, y, dtypes.int32)


@aten("aten.addbmm.default")
def _addbmm(b: AtenBuilder, x: Value, y: Value, z: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta x + alpha times the sum over the batch of y z."""
    summed = total(b, _product_as(b, y, z, compute_type(b.dtype)), [0])
    return pointwise(b, (x, summed), lambda p, q: (p * beta if beta != 1 else p) + (q * alpha if alpha != 1 else q))


@aten("aten._convolution.default", "aten._convolution.deprecated")
def _convolution(b: AtenBuilder, *arguments: object) -> Value:
    return ROWS["aten.convolution.default"](b, *arguments[:9])  # how cuDNN may compute it comes after
