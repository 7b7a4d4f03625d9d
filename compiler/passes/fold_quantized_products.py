"""Products and convolutions of dequantized operands as exact ones of their bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast
from compiler.ir import Value
from compiler.ops.elementwise import emit_map
from compiler.ops.quant_products import exact_core_conv, exact_matmul, is_depthwise
from compiler.passes.fold_quantized_form import Quantized, multiplier
from compiler.types import TensorType

_LONGEST = (2**31 - 1) // 255**2  # so many products of bytes less their zero points fit int32
_EXACT = 2**24 // 255**2  # so many float32
_CLOSE = 1e-5  # relative: a bias's scale is the product of the others, rounded somehow

Folded = tuple[Value, Value, bool]  # product of whole numbers, float32 factor, whether the bias is in it


def folded_product(
    b: Builder, x: Quantized, w: Quantized, times: float = 1.0, bias: Quantized | None = None
) -> Folded | str:
    """x @ w as an int32 product and its factor, which includes `times`; or why not."""
    ranks = [len(form.shape) for form in (x, w)]
    if min(ranks) < 2:
        return "a vector is no operand of a product of bytes"
    if x.axis == ranks[0] - 1 or w.axis == ranks[1] - 2:
        return "scales or zero points vary along the axis that is summed"
    if _too_long(x.shape[-1]):
        return f"sums of {x.shape[-1]} products may not fit int32"
    scales = [form.spread(b, form.scale) for form in (x, w)]
    factor = multiplier(b, *scales, times=times)  # type: ignore[arg-type]
    summed = times == 1 and bias is not None and _fits(b, bias, factor)
    added = bias.x if bias is not None and summed else None
    return exact_matmul(b, x.x, x.spread(b, x.zero), w.x, w.spread(b, w.zero), added), factor, summed


def folded_conv(
    b: Builder, attrs: Mapping[str, Any], x: Quantized, w: Quantized, bias: Quantized | None = None
) -> Folded | str:
    """The same of a convolution of core conv's attributes. A depthwise one is of float32 where that is exact, because
    machines multiply and add neither bytes nor int32 as fast in lanes."""
    if x.axis is not None:
        return "the zero point and scale of a convolution's input must be one"
    if w.axis not in (None, 0):
        return "scales or zero points of its weights are not of output channels"
    if _too_long(dims.product(w.shape[1:])):
        return f"sums of {dims.product(w.shape[1:])} products may not fit int32"
    channels = (-1, *[1] * (len(w.shape) - 2))
    known = b.constants.get(w.scale.name)
    scale = w.scale if w.axis is None else None
    if scale is None:
        scale = b.emit("reshape", w.scale, b.sizes(channels)) if known is None else b.constant(known.reshape(channels))
    elif known is not None:
        scale = b.constant(known.reshape(()))
    factor = multiplier(b, x.spread(b, x.scale), scale)  # type: ignore[arg-type]
    summed = bias is not None and _fits(b, bias, factor)
    added = bias.x if bias is not None and summed else None
    core = {name: attrs[name] for name in ("strides", "dilations", "pads", "group")}
    positions = math.prod(w.shape[2:]) if dims.is_static(w.shape) else _LONGEST
    if is_depthwise(attrs["group"], w.shape) and positions <= _EXACT:
        return _depthwise(b, core, x, w, added), factor, summed
    zero = x.spread(b, x.zero)
    return exact_core_conv(b, core, x.x, zero, w.x, w.zero, added), factor, summed


def _too_long(depth: Any) -> bool:
    return isinstance(depth, int) and depth > _LONGEST


def _depthwise(b: Builder, attrs: Mapping[str, Any], x: Quantized, w: Quantized, bias: Value | None) -> Value:
    """The same in float32, where every sum is a whole number of at most 24 bits."""
    f, whole = dtypes.float32, dtypes.int32

    def centred(form: Quantized) -> Value:
        zero, value = form.spread(b, form.zero), cast(arg(0, form.x.type.dtype), whole)  # type: ignore[union-attr]
        if zero is None:
            return emit_map(b, cast(value, f), form.x, hint="centred")
        less = value - cast(arg(1, zero.type.dtype), whole)  # type: ignore[union-attr]
        return emit_map(b, cast(less, f), form.x, zero, hint="centred")

    sums = b.emit("conv", centred(x), centred(w), **attrs)
    if bias is None:
        return sums
    spread = b.emit("reshape", bias, b.sizes((-1, *[1] * (len(w.shape) - 2))))
    return emit_map(b, arg(0, f) + cast(arg(1, whole), f), sums, spread, hint="biased")


def _fits(b: Builder, bias: Quantized, factor: Value) -> bool:
    """Whether a bias is int32 in units of `factor`, constants all of them."""
    arrays = [b.constants.get(v.name) for v in (bias.scale, factor)]
    scale, unit = arrays
    zero = None if bias.zero is None else b.constants.get(bias.zero.name)
    plain = bias.zero is None or (zero is not None and not zero.any())
    if scale is None or unit is None or not plain or bias.x.type != TensorType(dtypes.int32, bias.shape):
        return False
    flat = [a.reshape(-1).astype(np.float64) for a in (scale, unit)]
    return (flat[0].size in (1, flat[1].size)) and bool(np.allclose(flat[0], flat[1], rtol=_CLOSE, atol=0))
