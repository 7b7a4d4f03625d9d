"""Quantizing and dequantizing calls: of torch's pt2e exports (quantized_decomposed.*), of torchao's tensor subclasses
(torchao.*), and the fake quantization of models trained for it. All become quantize_linear and dequantize_linear.

torch multiplies by the reciprocal of the scale where quantize_linear divides: a result halfway between two quanta may
come out one quantum apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import apply
from compiler.frontends.aten.base import (
    AtenBuilder,
    Operand,
    aten,
    convert,
    pointwise,
    shape_of,
    tensor_type,
    to_tensor,
    unsupported,
)
from compiler.frontends.aten.granularity import WHOLE, Granularity, along, in_blocks, in_rows
from compiler.ir import Value
from compiler.ops.onnx_types import onnx_number
from compiler.ops.rounding import integer_limits

Bound = Value | int | float | None


def quantize(
    b: AtenBuilder, x: Value, scale: Operand, zero: Operand, parts: Granularity, low: Bound, high: Bound, to: DType
) -> Value:
    """clamp(round(x / scale) + zero, low, high) as integers of type `to`; None stands for the limits of the type."""
    if to.is_float:
        raise unsupported(b, f"numbers rounded to whole ones are stored as {to}; expected an integer type")
    parameters = (_scale(b, scale, parts), _zero(b, zero, to, parts))
    held = b.emit("quantize_linear", x, *parameters, axis=parts.axis, block_size=parts.block_size)
    limits = dict(zip(("max", "min"), integer_limits(to), strict=True))
    narrower = [(fn, v) for fn, v in (("max", low), ("min", high)) if v is not None and v != limits[fn]]
    for fn, bound in narrower:  # saturated to the type before: the order changes nothing
        bound = bound if isinstance(bound, Value) else int(bound)  # type: ignore[arg-type]
        held = pointwise(b, (held, bound), lambda e, limit, fn=fn: apply(fn, e, limit), to, to)
    return held


def dequantize(b: AtenBuilder, x: Value, scale: Operand, zero: Operand | None, parts: Granularity, to: DType) -> Value:
    """(x - zero) * scale in float type `to`."""
    factor, held = _scale(b, scale, parts), tensor_type(x).dtype
    shift = None if zero is None or (held.is_float and isinstance(zero, int)) else _zero(b, zero, held, parts)
    number = 0 if tensor_type(factor).dtype == to else onnx_number(to)
    attrs: dict[str, Any] = {"axis": parts.axis, "block_size": parts.block_size, "output_dtype": number}
    return b.emit("dequantize_linear", x, factor, *([] if shift is None else [shift]), **attrs)


def _scale(b: AtenBuilder, scale: Operand, parts: Granularity) -> Value:
    # Scales of double precision come from float32 extremes, and torch divides float32 tensors by them.
    if not isinstance(scale, Value):
        return to_tensor(b, scale, dtypes.float32)
    held = b.plainer.get(scale.name, scale)
    wide = tensor_type(held).dtype == dtypes.float64
    return parts.lay_out(b, convert(b, held, dtypes.float32) if wide else held)


def _zero(b: AtenBuilder, zero: Operand, to: DType, parts: Granularity) -> Value:
    if isinstance(zero, Value):
        return parts.lay_out(b, convert(b, b.plainer.get(zero.name, zero), to))
    low, high = integer_limits(to)
    if not low <= zero <= high:  # type: ignore[operator]
        raise unsupported(b, f"zero point {zero} of {to} elements; expected {low}..{high}")
    return b.constant(np.asarray(zero, to.numpy), "zero_point")


@aten(*(f"quantized_decomposed.quantize_per_tensor.{overload}" for overload in ("default", "tensor", "tensor2")))
def _quantize_per_tensor(
    b: AtenBuilder, x: Value, scale: Operand, zero: Operand, low: Bound, high: Bound, dtype: DType
) -> Value:
    return quantize(b, x, scale, zero, WHOLE, low, high, dtype)


@aten(*(f"quantized_decomposed.dequantize_per_tensor.{overload}" for overload in ("default", "tensor", "tensor2")))
def _dequantize_per_tensor(
    b: AtenBuilder, x: Value, scale: Operand, zero: Operand, *limits: object, **ignored: object
) -> Value:
    return dequantize(b, x, scale, zero, WHOLE, b.dtype)


@aten("quantized_decomposed.quantize_per_channel.default")
def _quantize_per_channel(
    b: AtenBuilder, x: Value, scales: Value, zeros: Value, axis: int, low: int, high: int, dtype: DType
) -> Value:
    return quantize(b, x, scales, zeros, along(b, x, axis), low, high, dtype)


@aten("quantized_decomposed.dequantize_per_channel.default")
def _dequantize_per_channel(
    b: AtenBuilder, x: Value, scales: Value, zeros: Value | None, axis: int, *limits: object, **ignored: object
) -> Value:
    return dequantize(b, x, scales, zeros, along(b, x, axis), b.dtype)


@aten("quantized_decomposed.quantize_per_token.default")
def _quantize_per_token(
    b: AtenBuilder, x: Value, scales: Value, zeros: Value, low: int, high: int, dtype: DType
) -> Value:
    return quantize(b, x, scales, zeros, in_rows(b, x), low, high, dtype)


@aten("quantized_decomposed.dequantize_per_token.default")
def _dequantize_per_token(
    b: AtenBuilder, x: Value, scales: Value, zeros: Value, *limits: object, **ignored: object
) -> Value:
    return dequantize(b, x, scales, zeros, in_rows(b, x), b.dtype)


def _in_groups(b: AtenBuilder, x: Value, scales: Value, group: int) -> Granularity:
    """Groups of elements of each row; a group wider than the row is the row."""
    columns = shape_of(x)[-1]
    return in_blocks(b, x, (1, columns if shape_of(scales)[-1] == 1 else group))


@aten("quantized_decomposed.quantize_per_channel_group.default")
def _quantize_per_channel_group(
    b: AtenBuilder, x: Value, scales: Value, zeros: Value, low: int, high: int, dtype: DType, group: int = 128
) -> Value:
    return quantize(b, x, scales, zeros, _in_groups(b, x, scales, group), low, high, dtype)


@aten("quantized_decomposed.dequantize_per_channel_group.default")
def _dequantize_per_channel_group(
    b: AtenBuilder, x: Value, scales: Value, zeros: Value | None, low: int, high: int, dtype: DType,
    group: int = 128, output_dtype: DType | None = None,
) -> Value:  # fmt: skip
    return dequantize(b, x, scales, zeros, _in_groups(b, x, scales, group), b.dtype)


@aten("torchao.quantize_affine.default")
def _quantize_affine(
    b: AtenBuilder, x: Value, blocks: Sequence[Size], scale: Value, zero: Value | None, dtype: DType,
    low: Bound = None, high: Bound = None,
) -> Value:  # fmt: skip
    least, most = integer_limits(dtype)  # of a type of fewer than 8 bits, where torch stores a byte
    limits = (least if low is None else low, most if high is None else high)
    return quantize(b, x, scale, 0 if zero is None else zero, in_blocks(b, x, blocks), *limits, b.dtype)


@aten("torchao.dequantize_affine.default")
def _dequantize_affine(
    b: AtenBuilder, x: Value, blocks: Sequence[Size], scale: Value, zero: Value | None, *limits: object,
    **ignored: object,
) -> Value:  # fmt: skip
    return dequantize(b, x, scale, zero, in_blocks(b, x, blocks), b.dtype)


def _scaled_blocks(b: AtenBuilder, x: Value, scale: Value) -> Granularity:
    """The blocks of x that a scale of its rank, or of one element, covers."""
    own, shape = shape_of(scale), shape_of(x)
    if all(size == 1 for size in own):
        return WHOLE
    return in_blocks(
        b, x, [size if n == 1 else 1 if n == size else size // n for size, n in zip(shape, own, strict=True)]
    )


@aten("torchao.quantize_affine_float8_non_decomposed.default")
def _quantize_float8(b: AtenBuilder, x: Value, scale: Value, dtype: DType = dtypes.float8_e4m3fn) -> Value:
    parts = _scaled_blocks(b, x, scale)
    attrs: dict[str, Any] = {"axis": parts.axis, "block_size": parts.block_size, "output_dtype": onnx_number(dtype)}
    return b.emit("quantize_linear", x, _scale(b, scale, parts), **attrs)


@aten("torchao.dequantize_affine_float8_non_decomposed.default")
def _dequantize_float8(b: AtenBuilder, x: Value, scale: Value, dtype: DType = dtypes.float32) -> Value:
    return dequantize(b, x, scale, None, _scaled_blocks(b, x, scale), b.dtype)


def _fake(b: AtenBuilder, x: Value, scale: Operand, zero: Operand, low: int, high: int, parts: Granularity) -> Value:
    """x with the precision that integers low..high leave, in the narrowest type that has them."""
    types = (dtypes.int8, dtypes.uint8, dtypes.int16, dtypes.int32)
    fits = [t for t in types if integer_limits(t)[0] <= low and high <= integer_limits(t)[1]]
    if not fits:
        raise unsupported(b, f"integers {low}..{high} to quantize to; expected at most 32 bits")
    held = quantize(b, x, scale, zero, parts, low, high, fits[0])
    return dequantize(b, held, scale, zero, parts, b.dtype)


@aten(
    "aten.fake_quantize_per_tensor_affine.default",
    "aten.fake_quantize_per_tensor_affine.tensor_qparams",
)
def _fake_per_tensor(b: AtenBuilder, x: Value, scale: Operand, zero: Operand, low: int, high: int) -> Value:
    return _fake(b, x, scale, zero, low, high, WHOLE)


@aten("aten.fake_quantize_per_channel_affine.default", "quantized_decomposed.fake_quant_per_channel.default")
def _fake_per_channel(b: AtenBuilder, x: Value, scales: Value, zeros: Value, axis: int, low: int, high: int) -> Value:
    return _fake(b, x, scales, zeros, low, high, along(b, x, axis))
