"""ONNX Runtime's operators on quantized tensors, run by it and by us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import runtime
from tests.compiler.ops.contrib_check import expected, feeds, model_of

RNG = np.random.default_rng(43)
U8, I8 = np.uint8, np.int8


def bytes_(dtype: Any, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def parameters(scale: float, zero: int, dtype: Any = U8) -> list[np.ndarray]:
    return [np.array(scale, np.float32), np.array(zero, dtype)]


def constants(arrays: Sequence[np.ndarray | None], *inputs: int) -> list[int]:
    """All inputs but these."""
    return [i for i, array in enumerate(arrays) if i not in inputs and array is not None]


def agree(
    operator: str, arrays: Sequence[np.ndarray | None], *inputs: int, error: float = 1e-5,
    outputs: Sequence[str] = ("y",), **attrs: Any,
) -> None:  # fmt: skip
    """Compare with ONNX Runtime, natively: bytes may be one off, of floats `error` is relative to 1 + the value.
    `inputs`: those that are no initializers."""
    model = model_of(operator, arrays, outputs, attrs, symbolic=False, weights=constants(arrays, *inputs))
    wanted = expected(model, arrays)
    program = runtime.compile(model.SerializeToString())
    found = program(**feeds(model, arrays))
    found = list(found) if isinstance(found, tuple | list) else [found]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        off = np.abs(ours.astype(np.float64) - theirs)
        assert off.max() <= 1 if theirs.dtype.kind in "iu" else (off / (1 + np.abs(theirs))).max() <= error, off.max()
        assert len(np.unique(theirs)) > 1, "the sample tells nothing"
    assert not [row for row in program.ledger() if row.unit == "host"]


@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [U8, I8])
def test_binary(operator: str, dtype: Any) -> None:
    a, c = bytes_(dtype, 3, 4, 5), bytes_(dtype, 4, 1)
    zero = 7 if dtype is I8 else 120
    arrays = [a, *parameters(0.02, zero, dtype), c, *parameters(0.03, zero, dtype), *parameters(0.05, zero, dtype)]
    agree(operator, arrays, 0, 3)


@pytest.mark.parametrize("operator", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_unary(operator: str) -> None:
    attrs = {"alpha": 0.2} if operator == "QLinearLeakyRelu" else {}
    agree(operator, [bytes_(U8, 5, 9), *parameters(0.05, 100), *parameters(0.02, 9)], 0, **attrs)


@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (1, 12)])
def test_softmax(axis: int, opset: int) -> None:
    arrays = [bytes_(U8, 3, 4, 5), *parameters(0.03, 100), *parameters(1 / 256, 0)]
    agree("QLinearSoftmax", arrays, 0, axis=axis, opset=opset)


@pytest.mark.parametrize("last", [0, 1])
def test_pools(last: int) -> None:
    arrays = [bytes_(U8, 2, 6, 7, 5), *parameters(0.03, 100), *parameters(0.02, 90)]
    agree("QLinearGlobalAveragePool", arrays, 0, channels_last=last)
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    for padded in (0, 1):
        agree("QLinearAveragePool", arrays, 0, channels_last=last, count_include_pad=padded, **window)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean(keepdims: int) -> None:
    """Which ONNX Runtime declares, and has no kernel for."""
    arrays = [bytes_(U8, 3, 4, 5), *parameters(0.03, 100), *parameters(0.005, 90)]
    attrs = {"axes": [1, 2], "keepdims": keepdims}
    model = model_of("QLinearReduceMean", arrays, ["y"], attrs, symbolic=False, weights=constants(arrays, 0))
    (found,) = runtime.compile(model.SerializeToString())(arrays[0])
    mean = ((arrays[0].astype(np.float64) - 100) * 0.03).mean((1, 2), keepdims=bool(keepdims))
    assert found.shape == mean.shape
    assert np.abs(found - np.clip(np.rint(mean / 0.005) + 90, 0, 255)).max() <= 1


def test_concat() -> None:
    parts = [bytes_(U8, 3, n, 5) for n in (2, 4)]
    arrays = [*parameters(0.03, 100), parts[0], *parameters(0.03, 100), parts[1], *parameters(0.04, 90)]
    agree("QLinearConcat", arrays, 2, 5, axis=1)


def test_where() -> None:
    condition = RNG.integers(0, 2, (3, 1)).astype(bool)
    both = [bytes_(U8, 3, 5), *parameters(0.03, 100), bytes_(U8, 3, 5), *parameters(0.04, 90)]
    agree("QLinearWhere", [condition, *both, *parameters(0.05, 80)], 0, 1, 4)


@pytest.mark.parametrize("last", [0, 1])
def test_conv(last: int) -> None:
    x, w = bytes_(U8, 2, 6, 7, 5), bytes_(I8, 4, 5 if last else 6, 3, 3)
    channels = [RNG.uniform(0.001, 0.01, 4).astype(np.float32), np.zeros(4, I8)]
    bias = RNG.integers(-900, 900, 4).astype(np.int32)
    arrays = [x, *parameters(0.03, 100), w, *channels, *parameters(0.9, 120), bias]
    agree("QLinearConv", arrays, 0, channels_last=last, pads=[1, 1, 1, 1])


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("quantized", [False, True])
def test_gemm(channels: bool, turned: int, quantized: bool) -> None:
    a, w = bytes_(U8, 5, 16), bytes_(I8, *((6, 16) if turned else (16, 6)))
    scale = RNG.uniform(0.01, 0.05, 6).astype(np.float32) if channels else np.array(0.02, np.float32)
    zero = np.zeros(scale.shape, I8)
    bias = RNG.integers(-900, 900, 6).astype(np.int32)
    arrays: list[np.ndarray | None] = [a, *parameters(0.03, 100), w, scale, zero, bias]
    arrays += parameters(0.4, 120) if quantized else []
    agree("QGemm", arrays, 0, transB=turned, alpha=1.0)


@pytest.mark.parametrize("right", [U8, I8])
@pytest.mark.parametrize("columns", [False, True])
def test_matmul_to_float(right: Any, columns: bool) -> None:
    scale = RNG.uniform(0.01, 0.05, 6).astype(np.float32) if columns else np.array(0.02, np.float32)
    zero = bytes_(right, 6) if columns else np.array(7, right)
    arrays = [bytes_(U8, 2, 5, 16), bytes_(right, 16, 6), np.array(0.03, np.float32), scale, np.array(100, U8), zero]
    agree("MatMulIntegerToFloat", arrays, 0)
    agree("MatMulIntegerToFloat", [*arrays, RNG.standard_normal(6).astype(np.float32)], 0, 2, 4)


def test_dynamic_matmul() -> None:
    x, scale = RNG.standard_normal((2, 5, 16)).astype(np.float32), RNG.uniform(0.01, 0.05, 6).astype(np.float32)
    arrays = [x, bytes_(I8, 16, 6), scale, np.zeros(6, I8), RNG.standard_normal(6).astype(np.float32)]
    agree("DynamicQuantizeMatMul", arrays, 0)


def test_dynamic_lstm() -> None:
    """ONNX Runtime quantizes x and h too: near, not equal."""
    size, hidden = 8, 6
    w, r = bytes_(I8, 1, size, 4 * hidden), bytes_(I8, 1, hidden, 4 * hidden)
    x, bias = RNG.standard_normal((5, 2, size)).astype(np.float32), RNG.standard_normal((1, 8 * hidden)) * 0.1
    one = [np.array([0.004], np.float32), np.array([0], I8)]
    arrays = [x, w, r, bias.astype(np.float32), None, None, None, None, *one, *one]
    agree("DynamicQuantizeLSTM", arrays, 0, error=0.03, hidden_size=hidden, outputs=["y", "h", "c"])


def test_attention() -> None:
    x, w = bytes_(U8, 2, 5, 16), bytes_(I8, 16, 48)
    bias, mask = RNG.standard_normal(48).astype(np.float32), np.array([5, 3], np.int32)
    arrays = [x, w, bias, np.array(0.02, np.float32), np.array(0.01, np.float32), mask, np.array(120, U8),
              np.array(0, I8)]  # fmt: skip
    agree("QAttention", arrays, 0, 5, error=2e-5, num_heads=4)


def test_embedding() -> None:
    ids, kinds = RNG.integers(0, 20, (2, 5)).astype(np.int32), RNG.integers(0, 2, (2, 5)).astype(np.int32)
    tables = [bytes_(U8, n, 8) for n in (20, 7, 2)]
    scales = [np.array(s, np.float32) for s in (0.02, 0.01, 0.03, 0.004, 0.002)]
    zeros = [np.array(z, U8) for z in (120, 100, 90, 0, 128)]
    arrays = [
        ids,
        kinds,
        *tables,
        bytes_(U8, 8),
        bytes_(U8, 8),
        np.array([[1] * 5, [1, 1, 0, 0, 0]], np.int32),
        *scales,
        *zeros,
    ]
    agree("QEmbedLayerNormalization", arrays, 0, 1, 7, error=2e-5, outputs=["y", "counts"])


@pytest.mark.parametrize("dtype", [U8, I8])
def test_quantize_and_dequantize(dtype: Any) -> None:
    x = RNG.uniform(-4, 4, (3, 6)).astype(np.float32)
    scales, zeros = RNG.uniform(0.01, 0.05, 6).astype(np.float32), bytes_(dtype, 6)
    agree("QuantizeLinear", [x, scales, zeros], 0, axis=1)
    agree("DequantizeLinear", [bytes_(dtype, 3, 6), scales, zeros], 0, error=1e-6, axis=1)
