"""ATen calls on the matrix units: matrix products, convolutions, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compiler import dtypes
from compiler.dims import Dim
from compiler.expr import Expr, apply, arg, cast, const, index, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    compute_type,
    pointwise,
    reshape,
    shape_of,
    swap_last,
    tensor_type,
    transpose,
    unsupported,
)
from compiler.frontends.aten.reduce import total
from compiler.ir import Value


@aten("aten.linear.default")
def _linear(b: AtenBuilder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x [.., K] by weight [N, K] transposed, plus bias [N], which joins the product's epilogue."""
    return _product(b, x, swap_last(b, weight), bias)


@aten("aten.mm.default", "aten.bmm.default", "aten.matmul.default", "aten.mv.default", "aten.dot.default")
def _matmul(b: AtenBuilder, x: Value, y: Value) -> Value:
    return b.emit("matmul", x, y)


@aten("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def _addmm(b: AtenBuilder, added: Value, x: Value, y: Value, beta: float = 1, alpha: float = 1) -> Value:
    if beta == 1 and alpha == 1:
        return _product(b, x, y, added)
    product = _summed(b, x, y)
    if beta == 0:
        return pointwise(b, (product,), lambda p: p * alpha)
    return pointwise(b, (product, added), lambda p, a: p * alpha + a * beta)


def _product(b: AtenBuilder, x: Value, y: Value, added: Value | None) -> Value:
    if added is None:
        return b.emit("matmul", x, y)
    return pointwise(b, (_summed(b, x, y), added), lambda p, a: p + a)


def _summed(b: AtenBuilder, x: Value, y: Value) -> Value:
    """The product in the type it is summed in, for a call that goes on before it rounds."""
    held = tensor_type(x).dtype
    acc = compute_type(held)
    return b.emit("matmul", x, y, epilogue=() if acc == held else (arg(0, acc),))


@aten("aten.outer.default", "aten.ger.default")
def _outer(b: AtenBuilder, x: Value, y: Value) -> Value:
    column = reshape(b, x, [*shape_of(x), 1])
    return pointwise(b, (column, y), lambda p, q: p * q)


@aten("aten.convolution.default")
def _convolution(
    b: AtenBuilder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    rank = tensor_type(weight).rank
    spatial = rank - 2
    strides, pads, dilations = (_per_axis(n, spatial) for n in (stride, padding, dilation))
    unbatched = tensor_type(x).rank == rank - 1
    if unbatched:
        x = reshape(b, x, [1, *shape_of(x)])
    if transposed:
        extra = _per_axis(output_padding, spatial)
        result = b.emit(
            "conv_transpose",
            x,
            weight,
            bias,
            strides=strides,
            dilations=dilations,
            pads=pads + pads,
            group=groups,
            output_padding=extra,
        )
    else:
        result = b.emit("conv", x, weight, bias, strides=strides, dilations=dilations, pads=pads + pads, group=groups)
    return reshape(b, result, shape_of(result)[1:]) if unbatched else result


@aten("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def _conv(
    b: AtenBuilder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    return _convolution(b, x, weight, bias, stride, padding, dilation, False, (0,), groups)


def _per_axis(numbers: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(numbers) * count if len(numbers) == 1 else tuple(numbers)


@aten(
    "aten.scaled_dot_product_attention.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_attention_math_for_cpu.default",
)
def _attention(
    b: AtenBuilder,
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    **ignored: object,
) -> Value:
    """softmax(q k' * scale + mask) v; a mask of booleans lets true through, causal means key position <= query's."""
    if dropout_p:
        raise unsupported(b, f"scaled_dot_product_attention with dropout {dropout_p}; export the model in eval mode")
    if enable_gqa:
        k, v = (_repeat_heads(b, x, q) for x in (k, v))
    size = shape_of(q)[-1]
    if scale is None:
        if isinstance(size, Dim):
            raise unsupported(b, f"scaled_dot_product_attention with head size {size}; a fixed one is needed")
        scale = 1 / math.sqrt(size) if size else 1.0
    rank = max(tensor_type(x).rank for x in (q, k, v))
    q, k, v = (reshape(b, x, [*[1] * (rank - tensor_type(x).rank), *shape_of(x)]) for x in (q, k, v))
    acc = compute_type(b.dtype)
    score = arg(0, acc) * scale
    operands = [q, k, v]
    if attn_mask is not None:
        score = _masked(score, arg(1, tensor_type(attn_mask).dtype))
        operands.append(attn_mask)
    if is_causal:
        score = select(apply("le", index(rank - 1), index(rank - 2)), score, const(-math.inf, acc))
    return b.emit("attention", *operands, score=score)


def _masked(score: Expr, mask: Expr) -> Expr:
    if mask.dtype == dtypes.boolean:
        return select(mask, score, const(-math.inf, score.dtype))
    return score + cast(mask, score.dtype)


def _repeat_heads(b: AtenBuilder, x: Value, q: Value) -> Value:
    # Grouped-query attention: query head h reads key head h // (query heads / key heads).
    *outer, heads, length, size = shape_of(x)
    times = shape_of(q)[-3] // heads
    if times == 1:
        return x
    spread = b.emit(
        "expand", reshape(b, x, [*outer, heads, 1, length, size]), b.sizes((*outer, heads, times, length, size))
    )
    return reshape(b, spread, [*outer, heads * times, length, size])


@aten("aten._trilinear.default")
def _trilinear(b: AtenBuilder, *operands: object) -> Value:
    """Three tensors given new axes, multiplied, and summed over some axes (torch.nn.Bilinear)."""
    tensors, expands, summed = operands[:3], operands[3:6], operands[6]
    widened = []
    for x, axes in zip(tensors, expands, strict=True):
        shape = list(shape_of(x))  # type: ignore[arg-type]
        for axis in axes:  # type: ignore[attr-defined]
            shape.insert(axis, 1)
        widened.append(reshape(b, x, shape))  # type: ignore[arg-type]
    return total(b, pointwise(b, widened, lambda p, q, r: p * q * r), summed)  # type: ignore[arg-type]


@aten("aten.channel_shuffle.default")
def _channel_shuffle(b: AtenBuilder, x: Value, groups: int) -> Value:
    n, channels, *spatial = shape_of(x)
    split = reshape(b, x, [n, groups, channels // groups, *spatial])
    perm = [0, 2, 1, *range(3, 3 + len(spatial))]
    return reshape(b, transpose(b, split, perm), [n, channels, *spatial])
