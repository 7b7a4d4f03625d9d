"""Dequantized values: what they were dequantized from, and whether products can take that instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.ops.elementwise import emit_map
from compiler.ops.onnx_types import onnx_dtype
from compiler.passes.fold_quantized_lift import BYTES, is_scalar


@dataclass(frozen=True)
class Quantized:
    """A value that is (x - zero) * scale, as `dtype`. `axis`: which axis of x scale and zero are along, None for one of
    each. `where`: the nodes that dequantize. `problem`: why no product can read x instead, '' where one can."""

    x: Value
    scale: Value
    zero: Value | None
    axis: int | None
    dtype: DType
    where: tuple[str, ...]
    problem: str = ""

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of x."""
        return self.x.type.shape  # type: ignore[union-attr,return-value]

    def same_parameters(self, b: Builder, scale: Value, zero: Value | None) -> bool:
        """Whether these are its one scale and zero point."""
        if self.axis is not None or not is_scalar(scale):
            return False
        return _same(b, self.scale, scale) and _same(b, self.zero, zero)

    def emit(self, b: Builder) -> Value:
        """The value itself."""
        number = 0 if self.scale.type.dtype == self.dtype else _NUMBERS[self.dtype]  # type: ignore[union-attr]
        axis = 1 if self.axis is None else self.axis
        return b.emit("dequantize_linear", self.x, self.scale, self.zero, axis=axis, output_dtype=number)

    def spread(self, b: Builder, parameter: Value | None) -> Value | None:
        """Its scale or zero point shaped to broadcast against x."""
        if parameter is None:
            return None
        shape = () if self.axis is None else (-1, *[1] * (len(self.shape) - self.axis - 1))
        known = b.constants.get(parameter.name)
        if known is not None:
            return b.constant(known.reshape(shape))
        return b.emit("reshape", parameter, b.sizes(shape))


_NUMBERS = {onnx_dtype(n): n for n in (1, 10, 11, 16)}


def _same(b: Builder, one: Value | None, other: Value | None) -> bool:
    """Whether two parameters are one number; a missing one is 0."""
    if one is not None and other is not None and one.name == other.name:
        return True
    if any(v is not None and v.name not in b.constants for v in (one, other)):
        return False
    numbers = [np.zeros(()) if v is None else b.constants[v.name].reshape(()) for v in (one, other)]
    return bool(numbers[0] == numbers[1])


def quantized(b: Builder, node: Node) -> Quantized | None:
    """What a dequantize_linear node dequantizes; None where shapes are not known."""
    x, scale, zero = (*node.inputs, None)[:3]
    if x is None or scale is None or x.type.shape is None or scale.type.shape is None:  # type: ignore[union-attr]
        return None
    axis = None if is_scalar(scale) else node.attrs["axis"] % max(len(x.type.shape), 1)  # type: ignore[union-attr]
    found = Quantized(x, scale, zero, axis, node.output.type.dtype, node.where)  # type: ignore[union-attr]
    if node.attrs["block_size"]:
        return replace(found, problem="its scales are of blocks")
    return _widened(b, found)


def _widened(b: Builder, form: Quantized) -> Quantized:
    """The same in bytes where a constant has fewer bits."""
    dtype: DType = form.x.type.dtype  # type: ignore[union-attr]
    if form.dtype == dtypes.float64:
        return replace(form, problem="it is float64")
    if dtype in (*BYTES, dtypes.int32):
        return form
    if not dtype.is_integer or dtype.bits > 8:
        return replace(form, problem=f"{dtype} is no type of 8 bits")
    values = (form.x, form.zero)
    if any(v is not None and v.name not in b.constants for v in values):
        return replace(form, problem=f"{dtype} is packed anew only in constants")
    x, zero = (None if v is None else b.constant(b.constants[v.name].astype(np.int8), v.name) for v in values)
    assert x is not None
    return replace(form, x=x, zero=zero)


def why_not_bytes(form: Quantized) -> str:
    """Why x is no operand of a product of bytes; '' where it is one."""
    if form.problem:
        return form.problem
    dtype = form.x.type.dtype  # type: ignore[union-attr]
    return "" if dtype in BYTES else f"{dtype} is no type of 8 bits"


def axis_after(form: Quantized, shape: tuple[Size, ...], perm: tuple[int, ...] | None) -> int | None:
    """Which axis of a moved x, of this shape, has its scales; None where none has. perm: of a transpose."""
    assert form.axis is not None
    if perm is not None:
        return perm.index(form.axis)
    before, size = dims.product(form.shape[: form.axis]), form.shape[form.axis]
    for axis, extent in enumerate(shape):
        if extent == size and dims.product(shape[:axis]) == before:
            return axis
    return None


def multiplier(b: Builder, *scales: Value, times: float = 1.0) -> Value:
    """The product of scales as float32, rounded once."""
    arrays = [b.constants.get(v.name) for v in scales]
    if all(a is not None for a in arrays):
        product = np.asarray(times, np.float64)
        for array in arrays:
            product = product * array.astype(np.float64)  # type: ignore[union-attr]
        return b.constant(product.astype(np.float32), "multiplier")
    wide = [cast(arg(i, v.type.dtype), dtypes.float64) for i, v in enumerate(scales)]  # type: ignore[union-attr]
    total = wide[0]
    for factor in wide[1:]:
        total = total * factor
    return emit_map(b, cast(total * times, dtypes.float32), *scales, hint="multiplier")
