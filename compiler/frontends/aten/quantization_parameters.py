"""Scales and zero points chosen from a tensor as the model runs: dynamic quantization of torch's pt2e exports and of
torchao. The formulas are torch's own (torch/ao/quantization/utils.py, determine_qparams; torchao's
quant_primitives.py, choose_qparams_affine), each step rounded to the tensor's type as there. One pass over the tensor
finds both ends of a range, and its row expressions make of them what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, select, stat
from compiler.frontends.aten.base import AtenBuilder, aten, compute_type, reshape, shape_of, tensor_type, unsupported
from compiler.ir import Value
from compiler.kernels import Stage
from compiler.ops.rounding import integer_limits

Rounding = Callable[[Expr], Expr]
# From the least element, at most 0, and the greatest, at least 0, to scale and zero point; the tensor's rounding.
Formula = Callable[[Expr, Expr, Rounding], tuple[Expr, Expr]]


def _chosen(
    b: AtenBuilder, x: Value, axes: Sequence[int], keepdim: bool, formula: Formula, target: DType
) -> tuple[Value, ...]:
    """Scale and zero point in the types torch declares. b.plainer has them as float32 and `target` too: what a
    quantizing map reads, without the conversions from torch's float64 and int64."""
    held = tensor_type(x).dtype
    wide = compute_type(held)
    element, zero = cast(arg(0, held), wide), const(0, wide)
    stages = (Stage("min", element), Stage("max", element))
    low, high = apply("min", stat(0, wide), zero), apply("max", stat(1, wide), zero)
    scale, place = formula(low, high, lambda e: cast(cast(e, held), wide))
    types = [dtype for dtype in b.dtypes if dtype is not None]
    rows = (cast(scale, types[0]), cast(place, types[1]), cast(scale, dtypes.float32), cast(place, target))
    attrs = {"axes": tuple(axes), "keepdims": keepdim, "stages": stages, "rows": rows}
    found = b.emit_many("reduce", (x,), attrs, ["scale", "zero_point"] * 2)
    b.plainer.update((declared.name, plain) for declared, plain in zip(found[:2], found[2:], strict=True))
    return found[:2]


def _reshaped(b: AtenBuilder, values: Sequence[Value], shape: Sequence[Size]) -> tuple[Value, ...]:
    """Parameters under another shape."""
    found = [reshape(b, value, shape) for value in values]
    b.plainer.update((new.name, reshape(b, b.plainer[old.name], shape)) for new, old in zip(found, values, strict=True))
    return tuple(found)


def _whole_tensor(b: AtenBuilder, x: Value, formula: Formula, target: DType) -> tuple[Value, ...]:
    """Parameters of all of x, as tensors of one element, which torch makes of them."""
    x = x if shape_of(x) else reshape(b, x, [1])
    return _reshaped(b, _chosen(b, x, range(len(shape_of(x))), False, formula, target), [1])


def _held(e: Expr, least: float, most: float) -> Expr:
    return apply("min", apply("max", e, const(least, e.dtype)), const(most, e.dtype))


def _whole_range(low: Expr, high: Expr, least: float, most: float, stored: Rounding) -> Expr:
    """The scale that spreads low..high over all integers."""
    return stored(stored(high - low) / float(most - least))


def _symmetric(low: Expr, high: Expr, least: float, most: float, stored: Rounding) -> Expr:
    """The scale that gives the number farthest from 0 the greatest integer."""
    return stored(apply("max", -low, high) / (float(most - least) / 2))


def _zero_point(low: Expr, scale: Expr, least: float, most: float, stored: Rounding) -> Expr:
    """The integer that stands for 0."""
    return _held(stored(const(least, low.dtype) - apply("rint", stored(low / scale))), least, most)


@aten("quantized_decomposed.choose_qparams.tensor")
def _choose(b: AtenBuilder, x: Value, least: int, most: int, eps: float, dtype: DType) -> tuple[Value, ...]:
    def formula(low: Expr, high: Expr, stored: Rounding) -> tuple[Expr, Expr]:
        # torch's eps is a float32 tensor: what comes after it is float32 whatever x is
        scale = apply("max", _whole_range(low, high, least, most, stored), const(eps, low.dtype))
        return scale, _zero_point(low, scale, least, most, lambda e: e)

    return _whole_tensor(b, x, formula, dtype)


@aten("quantized_decomposed.choose_qparams_symmetric.tensor")
def _choose_symmetric(b: AtenBuilder, x: Value, least: int, most: int, eps: float, dtype: DType) -> tuple[Value, ...]:
    def formula(low: Expr, high: Expr, stored: Rounding) -> tuple[Expr, Expr]:
        scale = apply("max", _symmetric(low, high, least, most, stored), const(eps, low.dtype))
        return scale, const(128 if dtype == dtypes.uint8 else 0, low.dtype)

    return _whole_tensor(b, x, formula, dtype)


@aten("quantized_decomposed.choose_qparams_per_token.default")
def _choose_per_token(b: AtenBuilder, x: Value, dtype: DType) -> tuple[Value, ...]:
    in_float32 = tensor_type(x).dtype == dtypes.float16

    def formula(low: Expr, high: Expr, stored: Rounding) -> tuple[Expr, Expr]:
        stored = (lambda e: e) if in_float32 else stored
        size = apply("max", apply("max", -low, high), const(1e-5, low.dtype))
        return stored(stored(size) / float(integer_limits(dtype)[1])), const(0, low.dtype)

    return _chosen(b, x, [len(shape_of(x)) - 1], True, formula, dtype)


@aten(
    "quantized_decomposed.choose_qparams_per_token_asymmetric.default",
    "quantized_decomposed._choose_qparams_per_token_asymmetric_impl.default",
)
def _choose_per_token_asymmetric(b: AtenBuilder, x: Value, dtype: DType) -> tuple[Value, ...]:
    least, most = -128.0, 127.0  # whatever the type: torch's formula is that of XNNPACK, for int8

    def formula(low: Expr, high: Expr, stored: Rounding) -> tuple[Expr, Expr]:
        eps = float(np.finfo(np.float32).eps)
        scale = stored(apply("max", _whole_range(low, high, least, most, stored), const(eps, low.dtype)))
        first, last = stored(low / scale), stored(high / scale)
        # 0 is put where the rounding of the end that lies nearer to it errs less.
        error = stored(stored(first + least) + stored(last + most))
        nearer = apply("gt", error, const(0, error.dtype))
        place = select(nearer, const(least, low.dtype) - first, const(most, low.dtype) - last)
        return scale, apply("rint", _held(stored(place), least, most))

    return _chosen(b, x, [len(shape_of(x)) - 1], True, formula, dtype)


@aten("torchao.choose_qparams_affine.default")
def _choose_affine(
    b: AtenBuilder, x: Value, mapping: str, blocks: Sequence[Size], dtype: DType,
    low: float | None = None, high: float | None = None, eps: float | None = None,
    scale_dtype: DType | None = None, zero_dtype: DType | None = None, keepdim: bool = False,
) -> tuple[Value, ...]:  # fmt: skip
    limits = integer_limits(dtype)
    least, most = limits[0] if low is None else low, limits[1] if high is None else high
    floor = float(ml_dtypes.finfo(tensor_type(x).dtype.numpy).smallest_normal) if eps is None else eps
    scale_of = {"SYMMETRIC": _symmetric, "SYMMETRIC_NO_CLIPPING_ERR": _unclipped, "ASYMMETRIC": _whole_range}
    if mapping not in scale_of:
        raise unsupported(b, f"mapping {mapping!r} of numbers to integers; expected {', '.join(scale_of)}")

    def formula(low: Expr, high: Expr, stored: Rounding) -> tuple[Expr, Expr]:
        scale = stored(apply("max", scale_of[mapping](low, high, least, most, stored), const(floor, low.dtype)))
        if mapping == "ASYMMETRIC":
            return scale, _zero_point(low, scale, least, most, stored)
        return scale, const(int((most + least + 1) / 2), low.dtype)

    parts, axes = _apart(b, x, blocks)
    found = _chosen(b, parts, axes, False, formula, dtype if dtype.bits >= 8 else dtypes.uint8)
    if not keepdim:
        return found
    sizes = zip(shape_of(x), blocks, strict=True)
    return _reshaped(b, found, [size if block == 1 else 1 if block == size else size // block for size, block in sizes])


def _unclipped(low: Expr, high: Expr, least: float, most: float, stored: Rounding) -> Expr:
    """The symmetric scale that clips neither end, the integers reaching farther below 0 than above."""
    return apply("max", stored(low / float(least)), stored(high / float(most)))


def _apart(b: AtenBuilder, x: Value, blocks: Sequence[Size]) -> tuple[Value, list[int]]:
    """x with each axis that has several blocks split in two, and the axes within blocks; like torch, all of them where
    every block is one element."""
    shape: list[Size] = []
    axes: list[int] = []
    for size, block in zip(shape_of(x), blocks, strict=True):
        if block not in (1, size):
            shape.append(size // block)
        if block != 1:
            axes.append(len(shape))
        shape.append(block if block not in (1, size) else size)
    return reshape(b, x, shape), axes or list(range(len(shape)))
