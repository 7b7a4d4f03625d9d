"""Batch norm over the batch's own statistics."""

from __future__ import annotations

from compiler.expr import apply, arg, cast, extent, stat
from compiler.frontends.aten.base import AtenBuilder, aten, compute_type, reshape, shape_of, tensor_type
from compiler.ir import Value
from compiler.kernels import Stage


@aten("aten._native_batch_norm_legit.no_stats")
def _without_running(
    b: AtenBuilder, x: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> tuple[Value, ...]:
    """x [N, C, ..] over the mean and variance of each channel; the means, and one over the standard deviations."""
    dtype = tensor_type(x).dtype
    acc, rank = compute_type(dtype), tensor_type(x).rank
    column = [shape_of(x)[1] if axis == 1 else 1 for axis in range(rank)]
    operands = [x]
    mean = stat(0, acc) / extent(acc)
    difference = cast(arg(0, dtype), acc) - mean
    scale = apply("rsqrt", stat(1, acc) / extent(acc) + eps)
    result = difference * scale
    for parameter, fn in ((weight, "mul"), (bias, "add")):
        if parameter is not None:
            result = apply(fn, result, cast(arg(len(operands), tensor_type(parameter).dtype), acc))
            operands.append(reshape(b, parameter, column))
    stages = (Stage("sum", cast(arg(0, dtype), acc)), Stage("sum", difference * difference))
    attrs = {
        "axes": tuple(axis for axis in range(rank) if axis != 1), "keepdims": False, "stages": stages,
        "elements": (cast(result, dtype),), "rows": (mean, scale),
    }  # fmt: skip
    return b.emit_many("reduce", operands, attrs, ("batch_norm", "mean", "scale"))
