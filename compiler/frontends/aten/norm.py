"""ATen normalisations, kept whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.dims import Size
from compiler.dtypes import DType
from compiler.frontends.aten.base import AtenBuilder, aten, compute_type, shape_of, tensor_type, unsupported
from compiler.ir import Value


def _filled(b: AtenBuilder, given: Value | None, shape: Sequence[Size], value: float, dtype: DType) -> Value:
    """A weight or bias, or what stands for a missing one."""
    if given is not None:
        return given
    if not all(isinstance(size, int) for size in shape):
        raise unsupported(b, f"a norm without weights over symbolic sizes {list(shape)}; fix these dims")
    return b.constant(np.full(shape, value, dtype.numpy), "ones" if value else "zeros")  # type: ignore[arg-type]


@aten("aten.layer_norm.default")
def _layer_norm(
    b: AtenBuilder,
    x: Value,
    shape: Sequence[Size],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    return b.emit("layer_norm", x, weight, bias, axis=-len(shape), epsilon=eps)


@aten("aten.native_layer_norm.default")
def _native_layer_norm(
    b: AtenBuilder, x: Value, shape: Sequence[Size], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value | None, ...]:
    return _layer_norm(b, x, shape, weight, bias, eps), None, None


@aten("aten.rms_norm.default")
def _rms_norm(
    b: AtenBuilder, x: Value, shape: Sequence[Size], weight: Value | None = None, eps: float | None = None
) -> Value:
    if eps is None:
        eps = float(np.finfo(compute_type(b.dtype).numpy).eps)
    return b.emit("rms_norm", x, weight, axis=-len(shape), epsilon=eps)


@aten("aten._fused_rms_norm.default")
def _fused_rms_norm(
    b: AtenBuilder, x: Value, shape: Sequence[Size], weight: Value | None, eps: float | None
) -> tuple[Value | None, ...]:
    return _rms_norm(b, x, shape, weight, eps), None


@aten("aten._native_batch_norm_legit_no_training.default")
def _batch_norm(
    b: AtenBuilder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value | None, ...]:
    channels, dtype = shape_of(mean), tensor_type(mean).dtype
    scale, shift = _filled(b, weight, channels, 1, dtype), _filled(b, bias, channels, 0, dtype)
    return b.emit("batch_norm", x, scale, shift, mean, variance, epsilon=eps), None, None


@aten("aten.batch_norm.default")
def _batch_norm_whole(
    b: AtenBuilder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value | None:
    if training or mean is None or variance is None:
        raise unsupported(b, "batch norm over the batch's own statistics; export the model in eval mode")
    return _batch_norm(b, x, weight, bias, mean, variance, momentum, eps)[0]


@aten("aten.group_norm.default")
def _group_norm(
    b: AtenBuilder,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    channels = shape_of(x)[1:2]
    scale, shift = (_filled(b, given, channels, one, b.dtype) for given, one in ((weight, 1), (bias, 0)))
    return b.emit("group_norm", x, scale, shift, num_groups=groups, epsilon=eps)


@aten("aten.native_group_norm.default")
def _native_group_norm(
    b: AtenBuilder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: Size,
    channels: Size,
    positions: Size,
    groups: int,
    eps: float,
) -> tuple[Value | None, ...]:
    return _group_norm(b, x, groups, weight, bias, eps), None, None


@aten("aten.instance_norm.default")
def _instance_norm(
    b: AtenBuilder, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, variance: Value | None,
    use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Value | None:  # fmt: skip
    if not use_input_stats:
        return _batch_norm_whole(b, x, weight, bias, mean, variance, False, momentum, eps, False)
    return _group_norm(b, x, int(shape_of(x)[1]), weight, bias, eps)  # type: ignore[arg-type]
