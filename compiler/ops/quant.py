"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear as maps.

A scale or zero point is one number, one for each index along `axis`, or one for each block of `block_size`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.convert import saturated_cast
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, operand
from compiler.ops.narrow import element, emit_narrow_map, readable
from compiler.ops.onnx_types import onnx_dtype
from compiler.ops.rounding import convert, integer_limits, round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType


def spread(b: Builder, parameter: Value, x: Value, axis: int, block: int) -> Value:
    """A scale or zero point shaped to broadcast against x."""
    shape, own = known_shape(x), known_shape(parameter)
    if not own or own == (1,):
        return b.emit("reshape", parameter, b.sizes(())) if own else parameter
    at = axis % len(shape)
    if not block:
        return b.emit("reshape", parameter, b.sizes((-1, *[1] * (len(shape) - at - 1))))
    apart = b.emit("reshape", parameter, b.sizes((*own[: at + 1], 1, *own[at + 1 :])))
    repeated = b.emit("expand", apart, b.sizes((*own[: at + 1], block, *own[at + 1 :])))
    joined = b.emit("reshape", repeated, b.sizes((*own[:at], own[at] * block, *own[at + 1 :])))
    starts, steps = (0,) * len(shape), (1,) * len(shape)
    return b.emit("slice", joined, starts=starts, sizes=shape, steps=steps)


def spread_array(parameter: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """The same on arrays."""
    if parameter.ndim == 0 or parameter.shape == (1,):
        return parameter.reshape(())
    at = axis % len(shape)
    if not block:
        return parameter.reshape(-1, *[1] * (len(shape) - at - 1))
    return np.repeat(parameter, block, axis=at)[tuple(np.s_[:n] for n in shape)]


def _check_parameters(call: Call, x: TensorType) -> None:
    scale = call.tensor(1)
    if x.shape is not None and scale.shape is not None and len(scale.shape) == 1 and scale.shape != (1,):
        axis = call.axis(call.attrs["axis"], len(x.shape))
        if not call.attrs["block_size"]:
            call.same_size(x.shape[axis], scale.shape[0], f"number of scales along axis {axis}")


def _target(attrs: Any, zero: DType | None) -> DType:
    if zero is not None:
        return zero
    return onnx_dtype(attrs["output_dtype"]) if attrs["output_dtype"] else dtypes.uint8


def quantized(x: Expr, zero: Expr | None, target: DType, saturate: bool) -> Expr:
    """x, already divided by its scale, as `target`: rounded half to even, plus the zero point, saturated."""
    if target.is_float:
        return saturated_cast(x if zero is None else x + cast(zero, x.dtype), target, saturate)
    total = apply("rint", x)
    total = total if zero is None else total + cast(zero, x.dtype)
    if target.bits >= 8:
        return cast(total, target)  # which saturates
    low, high = integer_limits(target)
    held = apply("min", apply("max", total, const(low, x.dtype)), const(high, x.dtype))
    return cast(cast(held, dtypes.int32), target)


_QUANTIZE = {"axis": 1, "block_size": 0, "output_dtype": 0, "precision": 0, "saturate": 1}


@op("quantize_linear", onnx=OnnxRow("QuantizeLinear", _QUANTIZE), attrs=_QUANTIZE)
class QuantizeLinear:
    """saturate(round(x / scale) + zero point), in the zero point's type."""

    def infer(call: Call) -> list[TensorType]:
        x, zero = call.tensor(0), call.optional(2)
        _check_parameters(call, x)
        return [TensorType(_target(call.attrs, None if zero is None else zero.dtype), x.shape)]

    def reference(
        x: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray | None = None,
        *,
        axis: int,
        block_size: int,
        output_dtype: int,
        precision: int,
        saturate: int,
    ) -> np.ndarray:
        target = _target({"output_dtype": output_dtype}, None if zero is None else dtypes.from_numpy(zero.dtype))
        inner = _division_type(dtypes.from_numpy(scale.dtype), precision).numpy
        factor = spread_array(scale, x.shape, axis, block_size).astype(inner)
        with np.errstate(all="ignore"):
            ratio = (x.astype(inner) / factor).astype(np.float64)
        shift = 0.0 if zero is None else spread_array(zero, x.shape, axis, block_size).astype(np.float64)
        if target.is_float:
            return convert(np.asarray(ratio + shift), target, bool(saturate))
        low, high = integer_limits(target)
        held = np.clip(np.rint(ratio) + shift, low, high)
        return np.nan_to_num(held).astype(np.int64).astype(target.numpy)

    def decompose(b: Builder, node: Node) -> Value:
        x, scale, zero = (*node.inputs, None)[:3]
        parameters = [spread(b, v, x, node.attrs["axis"], node.attrs["block_size"]) for v in (scale, zero) if v]
        given = [readable(b, v) for v in (x, *parameters)]
        inner = _division_type(scale.type.dtype, node.attrs["precision"])
        ratio = cast(operand(0, x), inner) / cast(operand(1, given[1]), inner)
        shift = None if zero is None else element(2, zero.type.dtype)
        target = node.output.type.dtype
        expr = quantized(ratio, shift, target, bool(node.attrs["saturate"]))
        return emit_narrow_map(b, expr, target, *given, hint="quantize")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.uniform(-40, 40, (3, 4, 6)).astype(np.float32)
        scale = np.array(0.13, np.float32)
        for target in (np.uint8, np.int8, np.int16, ml_dtypes.int4, ml_dtypes.float8_e4m3fn):
            zero = np.array(3).astype(target) if np.dtype(target).kind in "iu" else np.zeros((), target)
            yield Sample((x, scale, zero), name=np.dtype(target).name)
        scales = rng.uniform(0.1, 1, 4).astype(np.float32)
        yield Sample((x, scales, np.array([1, 2, 3, 4], np.uint8)), {"axis": 1}, name="channels")
        blocks = rng.uniform(0.1, 1, (3, 4, 2)).astype(np.float32)
        yield Sample((x, blocks, np.zeros((3, 4, 2), np.int8)), {"axis": 2, "block_size": 3}, name="blocks")
        yield Sample((x, scale), name="no zero point")


def _division_type(scale: DType, precision: int) -> DType:
    return dtypes.float64 if (onnx_dtype(precision) if precision else scale) == dtypes.float64 else dtypes.float32


_DEQUANTIZE = {"axis": 1, "block_size": 0, "output_dtype": 0}


@op("dequantize_linear", onnx=OnnxRow("DequantizeLinear", _DEQUANTIZE), attrs=_DEQUANTIZE)
class DequantizeLinear:
    """(x - zero point) * scale, in the scale's type or `output_dtype`."""

    def infer(call: Call) -> list[TensorType]:
        x, scale = call.tensor(0), call.tensor(1)
        check_kind(call, scale.dtype, FLOAT)
        _check_parameters(call, x)
        number = call.attrs["output_dtype"]
        return [TensorType(onnx_dtype(number) if number else scale.dtype, x.shape)]

    def reference(
        x: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray | None = None,
        *,
        axis: int,
        block_size: int,
        output_dtype: int,
    ) -> np.ndarray:
        factor = spread_array(scale, x.shape, axis, block_size).astype(np.float64)
        shift = 0.0 if zero is None else spread_array(zero, x.shape, axis, block_size).astype(np.float64)
        target = onnx_dtype(output_dtype).numpy if output_dtype else scale.dtype
        return round_to((x.astype(np.float64) - shift) * factor, target)

    def decompose(b: Builder, node: Node) -> Value:
        x, scale, zero = (*node.inputs, None)[:3]
        parameters = [spread(b, v, x, node.attrs["axis"], node.attrs["block_size"]) for v in (scale, zero) if v]
        given = [readable(b, v) for v in (x, *parameters)]
        wide = dtypes.float64 if scale.type.dtype == dtypes.float64 else dtypes.float32
        value = element(0, x.type.dtype)
        if zero is None:
            difference = cast(value, wide)
        elif x.type.dtype.is_float:
            difference = cast(value, wide) - cast(element(2, zero.type.dtype), wide)
        else:  # exact in integers: an int32 less its zero point need not fit float32
            middle = dtypes.int64 if x.type.dtype.bits > 16 else dtypes.int32
            difference = cast(cast(value, middle) - cast(arg(2, zero.type.dtype), middle), wide)
        result = difference * cast(operand(1, given[1]), wide)
        return emit_map(b, cast(result, node.output.type.dtype), *given, hint="dequantize")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        scale = np.array(0.13, np.float32)
        for source in (np.uint8, np.int8, np.int32, ml_dtypes.uint4, ml_dtypes.float8_e5m2):
            x = rng.integers(0, 8, (3, 4, 6)).astype(source)
            zero = np.array(3).astype(source) if np.dtype(source).kind in "iuV" else np.zeros((), source)
            yield Sample((x, scale, zero), tolerance=1, name=np.dtype(source).name)
        x, scales = rng.integers(-9, 9, (3, 4, 6)).astype(np.int8), rng.uniform(0.1, 1, 4).astype(np.float16)
        yield Sample((x, scales, np.array([1, 2, 3, 4], np.int8)), {"axis": -2}, 1, "channels")
        blocks = rng.uniform(0.1, 1, (2, 4, 6)).astype(np.float32)
        yield Sample((x, blocks), {"axis": 0, "block_size": 2}, 1, "blocks")


@op("dynamic_quantize_linear", onnx="DynamicQuantizeLinear")
class DynamicQuantizeLinear:
    """x as uint8 with the scale and zero point that make its range, zero included, fit: y, scale, zero point."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        return [
            TensorType(dtypes.uint8, x.shape),
            TensorType(x.dtype, ()),
            TensorType(dtypes.uint8, ()),
        ][: call.outputs]

    def reference(x: np.ndarray) -> tuple[np.ndarray, ...]:
        real = x.dtype.type
        low, high = (real(f(x, initial=0)) for f in (np.min, np.max))
        scale = real(1) if high == low else (high - low) / real(255)
        zero = np.clip(np.rint(real(0) - low / scale), 0, 255)
        y = np.clip(np.rint(x / scale) + zero, 0, 255)
        return y.astype(np.uint8), np.asarray(scale), np.asarray(zero).astype(np.uint8)

    def decompose(b: Builder, node: Node) -> tuple[Value, ...]:
        x = node.inputs[0]
        f = x.type.dtype
        value, zero = arg(0, f), const(0, f)
        low, high = apply("min", stat(0, f), zero), apply("max", stat(1, f), zero)
        factor = select(apply("eq", low, high), const(1, f), (high - low) / 255.0)
        place = apply("min", apply("max", apply("rint", zero - low / factor), zero), const(255, f))
        attrs = {
            "axes": tuple(range(max(len(known_shape(x)), 1))),
            "keepdims": False,
            "stages": (Stage("min", value), Stage("max", value)),
            "rows": (factor, cast(cast(place, dtypes.int32), dtypes.uint8)),
        }
        row = x if known_shape(x) else b.emit("reshape", x, b.sizes((1,)))
        scale, point = b.emit_many("reduce", [row], attrs, ["scale", "zero_point"])
        ratio, shift = value / arg(1, f), cast(arg(2, dtypes.uint8), f)
        y = emit_map(b, quantized(ratio, shift, dtypes.uint8, True), x, scale, point, hint="quantized")
        return (y, scale, point)[: len(node.outputs)]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for name, (low, high) in {"both": (-3, 5), "positive": (1, 4), "negative": (-4, -1)}.items():
            yield Sample((rng.uniform(low, high, (4, 7)).astype(np.float32),), name=name)
        yield Sample((np.zeros((2, 3), np.float32),), name="zeros")
        yield Sample((np.array(-3, np.float32),), name="scalar")
