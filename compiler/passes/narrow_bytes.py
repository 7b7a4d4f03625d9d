"""Products in 8 bits, summed exactly in 32.

Weights are int8 with a scale an output channel. Activations are uint8: with scale and zero point of a calibrated range,
or else of their own least and greatest element, found as they come: row by row for matrix products, for each sample of
a convolution (there around 0, because one element pads all samples).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import Expr, arg, cast
from compiler.ir import Node, Value
from compiler.ops.zero_points import less_zero_points
from compiler.passes.narrow_bfloat import channel_operand
from compiler.passes.narrow_codes import row_codes, sample_codes, smoothed, static_codes
from compiler.passes.narrow_operands import Operands, depth_of, product_again
from compiler.policy import Calibrated
from compiler.quantization import symmetric

_F, _WHOLE = dtypes.float32, dtypes.int32
_EXACT = 2**31 // (255 * 127)  # products of bytes that int32 holds

# Epilogue operands, and the sums in real numbers: an expression of the accumulator and of these, numbered from `first`.
Sums = tuple[list[Value], Callable[[int], Expr]]


def why_not_bytes(operands: Operands, node: Node) -> str:
    """What keeps a product from running in 8 bits, '' if nothing."""
    if node.op == "grouped_matmul":
        return "the weights of a group of rows are known only as it runs"
    if node.op == "block_matmul":
        return "its weights are stored as codes with scales along K"
    if node.op not in ("matmul", "conv"):
        return "no matrix product"
    weights = weight_side(operands, node)
    if weights is None:
        return "both operands are computed"
    array = operands.constant(node.inputs[weights])
    depth = depth_of(node)
    if isinstance(depth, int) and depth > _EXACT:
        return f"sums of {depth} products of bytes need more than 32 bits"
    if not np.isfinite(array.astype(np.float32)).all():
        return "its weights are not all finite"
    return ""


def in_bytes(b: Builder, operands: Operands, node: Node, how: Calibrated) -> tuple[Value, ...]:
    """A product's results with both operands quantized; the epilogue is given the sums as float32."""
    side = weight_side(operands, node)
    assert side is not None
    return _conv(b, operands, node, how) if node.op == "conv" else _matmul(b, operands, node, side, how)


def weight_side(operands: Operands, node: Node) -> int | None:
    """Which operand is a weight of at least two axes: the right one where both are."""
    for side in (1, 0) if node.op == "matmul" else (1,):
        array = operands.constant(node.inputs[side])
        if array is not None and array.ndim > 1:
            return side
    return None


def _matmul(b: Builder, operands: Operands, node: Node, side: int, how: Calibrated) -> tuple[Value, ...]:
    x, name = node.inputs[1 - side], node.inputs[side].name
    over, summed = (-1, -2) if side == 1 else (-2, -1)  # the axes of activation and weights that the product sums over
    weights = operands.constant(node.inputs[side]).astype(np.float32)
    if how.smoothing is not None:
        weights = weights * _along(how.smoothing, summed, weights.ndim)
        x = smoothed(b, operands, x, _along(how.smoothing, over, -over))
    codes, scales = symmetric(weights, (summed,))
    codes = codes if how.codes is None else how.codes
    if how.low is None:
        q, scale, points = row_codes(b, operands, x, over)
        extras, total = _of_rows(scale, points, b.constant(scales, f"{name}_scales"), side)
    else:
        q, step, point = static_codes(b, operands, x, how.low, how.high)
        columns = point * codes.sum(axis=summed, keepdims=True, dtype=np.int32)
        zero = b.constant(columns, f"{name}_zero") if point else None
        extras, total = _calibrated(b.constant(np.asarray(scales * step, np.float32), f"{name}_scales"), zero)
    if how.correction is not None:
        extras, total = _plus(extras, total, b.constant(_along(-how.correction, over, -over), f"{name}_correction"))
    w = b.constant(codes, f"{name}_codes")
    return product_again(b, node, [w, q] if side == 0 else [q, w], extras, total, acc=_WHOLE)


def _conv(b: Builder, operands: Operands, node: Node, how: Calibrated) -> tuple[Value, ...]:
    x, weight = node.inputs[:2]
    array = operands.constant(weight).astype(np.float32)
    codes, kept = symmetric(array, tuple(range(1, array.ndim)))
    scales, fill = kept.reshape(-1), 0

    def channels(vector: np.ndarray, what: str) -> Value:
        return channel_operand(b, node, b.constant(np.asarray(vector), f"{weight.name}_{what}"))

    if how.low is None:
        q, scale = sample_codes(b, operands, x)
        extras, total = _of_samples(scale, channels(scales, "scales"))
    else:
        q, step, point = static_codes(b, operands, x, how.low, how.high)
        sums = codes.reshape(len(codes), -1).sum(axis=1, dtype=np.int32)
        zero = channels(point * sums, "zero") if point else None
        extras, total = _calibrated(channels(np.asarray(scales * step, np.float32), "scales"), zero)
        if point:  # padding is the zero point, so that it counts as 0
            extras.append(b.constant(np.array(point, np.uint8), "zero_point"))
            fill = len(node.inputs[3:]) + len(extras)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        extras, total = _plus(extras, total, channel_operand(b, node, node.inputs[2]))
    w = b.constant(codes, f"{weight.name}_codes")
    return product_again(b, node, [q, w], extras, total, acc=_WHOLE, fill=fill)


def _of_rows(scale: Value, zero: Value, scales: Value, side: int) -> Sums:
    """Of activations with a scale and a zero point a row; `side` says which operand the weights are."""

    def total(first: int) -> Expr:
        point = arg(first + 1, dtypes.uint8)
        whole = less_zero_points(point, None) if side == 1 else less_zero_points(None, point)
        return cast(whole, _F) * (arg(first, _F) * arg(first + 2, _F))

    return [scale, zero, scales], total


def _of_samples(scale: Value, scales: Value) -> Sums:
    """Of activations with a scale a sample."""
    return [scale, scales], lambda first: cast(arg(0, _WHOLE), _F) * (arg(first, _F) * arg(first + 1, _F))


def _calibrated(scales: Value, zero: Value | None) -> Sums:
    """Of activations with one scale and one zero point: `scales` are those of the products, `zero` what the zero point
    adds to every sum of a column."""
    if zero is None:
        return [scales], lambda first: cast(arg(0, _WHOLE), _F) * arg(first, _F)
    return [scales, zero], lambda first: cast(arg(0, _WHOLE) - arg(first + 1, _WHOLE), _F) * arg(first, _F)


def _plus(extras: list[Value], total: Callable[[int], Expr], addend: Value) -> Sums:
    """The sums with one more operand added."""
    number = len(extras)
    return [*extras, addend], lambda first: total(first) + cast(arg(first + number, addend.type.dtype), _F)


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A vector shaped to broadcast along `axis` (negative) of an array of `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
