"""Quantized tensors through the passes: what becomes products of bytes, what stays in float, and the values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compiler import dtypes
from compiler.ir import Graph, Value
from compiler.kernels import GemmSpec, MapSpec, MoveSpec, ReduceSpec, WindowSpec
from compiler.passes.fold_quantized import fold_quantized
from tests.compiler.passes.quantized_graphs import F32, I8, RNG, U8, Model, gemm, specs

CONV = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
CHANNEL_SCALES = RNG.uniform(0.01, 0.05, 6).astype(np.float32)


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
@pytest.mark.parametrize("form", ["tensor", "asymmetric", "columns", "columns with zero points"])
def test_matmul(form: str, activation: type) -> None:
    m = Model(3, 5, 16)
    zero: Any = {"asymmetric": 3, "columns with zero points": np.arange(6)}.get(form, 0)
    if form.startswith("columns"):
        w = m.weight(16, 6, scale=CHANNEL_SCALES, zero=np.broadcast_to(zero, 6), axis=1)
    else:
        w = m.weight(16, 6, zero=zero)
    lowered = m.check(m.b.emit("matmul", m.both(m.x, zero=20, dtype=activation), w))
    spec = gemm(lowered)
    assert spec.constant_b and spec.epilogue[0].dtype == F32
    assert len(specs(lowered, MapSpec)) == 1  # the quantization of x


def test_moves_are_of_bytes() -> None:
    m = Model(2, 3, 4, 5)
    x = m.b.emit("transpose", m.both(m.x), perm=(0, 2, 3, 1))
    x = m.b.emit("unsqueeze", m.b.emit("reshape", x, m.b.sizes((2, 20, 3))), m.b.constant(np.array([1])))
    w = m.weight(7, 3, 1, scale=RNG.uniform(0.01, 0.05, 7), zero=np.zeros(7), axis=0)
    w = m.b.emit("transpose", m.b.emit("flatten", w, axis=1), perm=(1, 0))
    lowered = m.check(m.b.emit("matmul", x, w))
    assert gemm(lowered).constant_b
    assert [spec.bytes for spec in specs(lowered, MoveSpec)] == [1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bias", ["none", "whole", "other scale", "float"])
def test_gemm(bias: str, turned: bool) -> None:
    m = Model(16, 5) if turned else Model(5, 16)
    w = m.weight(6, 16, scale=CHANNEL_SCALES, zero=np.zeros(6), axis=0)
    unit = np.float32(0.03) * CHANNEL_SCALES
    c = {
        "whole": lambda: m.bias(unit, 6),
        "other scale": lambda: m.bias(unit * 2, 6),
        "float": lambda: m.b.constant(RNG.standard_normal(6).astype(np.float32)),
    }.get(bias, lambda: None)()
    product = m.b.emit("gemm", m.both(m.x), w, c, transA=int(turned), transB=1, alpha=0.5 if bias == "float" else 1.0)
    lowered = m.check(m.quantize(product, 0.1, 100), quanta=1)
    spec = gemm(lowered)
    assert spec.epilogue[0].dtype == U8
    # What the zero point takes off and a bias in whole numbers are one operand; another bias is one more.
    assert spec.epilogue_inputs == (dtypes.int32, F32, *[F32] * (bias in ("other scale", "float")))


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_conv_block_with_a_residual_sum(channels: bool, group: int) -> None:
    """Padding is the zero point; bias, residual sum and activation are in the kernel, which reads and writes bytes."""
    m = Model(2, 6, 7, 5)
    x = m.both(m.x, zero=77)
    scale: Any = CHANNEL_SCALES if channels else 0.02
    w = m.weight(6, 6 // group, 3, 3, scale=scale, zero=np.zeros(np.shape(scale)), axis=0)
    c = m.b.emit("conv", x, w, m.bias(np.float32(0.03) * np.float32(scale), 6), **{**CONV, "group": group})
    total = m.b.emit("relu", m.b.emit("add", m.both(c, 0.1, 128), x))
    lowered = m.check(m.quantize(total, 0.1, 3), quanta=1)
    spec = gemm(lowered)
    assert spec.window and spec.fill and spec.epilogue[0].dtype == U8
    assert spec.epilogue_inputs.count(U8) == 2  # the zero point in the padding, and the residual
    # x is quantized, and laid out channels last: nothing else runs.
    assert len(specs(lowered, MapSpec)) == 1 and all(move.bytes == 1 for move in specs(lowered, MoveSpec))


def test_depthwise_convolution_is_exact() -> None:
    m = Model(1, 6, 7, 5)
    w = m.weight(6, 1, 3, 3, scale=CHANNEL_SCALES, zero=np.zeros(6), axis=0)
    c = m.b.emit("conv", m.both(m.x, zero=3), w, m.bias(np.float32(0.03) * CHANNEL_SCALES, 6), **{**CONV, "group": 6})
    (spec,) = specs(m.check(m.quantize(c, 0.1, 3), quanta=1), WindowSpec)
    assert spec.fn == "dot" and spec.epilogue[0].dtype == U8


def test_attention_of_bytes() -> None:
    """q.k and p.v, whose operands are computed."""
    m = Model(2, 3, 5, 8)
    q, k, v = (m.both(m.b.emit("mul", m.x, m.scale(s)), 0.02, z) for s, z in ((1, 120), (0.7, 130), (0.4, 110)))
    dots = m.b.emit("matmul", q, m.b.emit("transpose", k, perm=(0, 1, 3, 2)))
    p = m.both(m.b.emit("softmax", m.both(dots, 0.2, 128), axes=(-1,)), 1 / 255, 0)
    lowered = m.check(m.quantize(m.b.emit("matmul", p, v), 0.02, 128), quanta=2)
    assert [(spec.a, spec.b) for spec in specs(lowered, GemmSpec)] == [(U8, U8)] * 2
    assert len(specs(lowered, ReduceSpec)) == 1


def test_weights_kept_in_float_are_quantized_while_compiling() -> None:
    """As NNCF and torch write them: quantized and dequantized by the model."""
    m = Model(5, 16)
    w = m.b.constant(RNG.standard_normal((6, 16)).astype(np.float32))
    scale, zero = m.b.constant(CHANNEL_SCALES), m.b.constant(np.zeros(6, np.int8))
    held = m.b.emit("dequantize_linear", m.b.emit("quantize_linear", w, scale, zero, axis=0), scale, zero, axis=0)
    lowered = m.check(m.b.emit("matmul", m.both(m.x), m.b.emit("transpose", held, perm=(1, 0))))
    assert gemm(lowered).constant_b
    assert not any(array.dtype == np.float32 and array.size >= 6 * 16 for array in lowered.weights.values())


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_four_bits_widen(dtype: Any) -> None:
    m = Model(5, 16)
    w = m.weight(16, 6, dtype=dtype, scale=CHANNEL_SCALES, zero=np.arange(6), axis=1)
    spec = gemm(m.check(m.b.emit("matmul", m.both(m.x), w)))
    assert spec.b == I8


def _wide(m: Model) -> Value:
    return m.b.emit("matmul", m.both(m.x), m.weight(16, 6, dtype=np.int16))


def _along_k(m: Model) -> Value:
    scale = RNG.uniform(0.01, 0.05, 16)
    return m.b.emit("matmul", m.both(m.x), m.weight(16, 6, scale=scale, zero=np.zeros(16), axis=0))


def _blocks(m: Model) -> Value:
    scale = RNG.uniform(0.01, 0.05, (4, 6))
    return m.b.emit("matmul", m.both(m.x), m.weight(16, 6, scale=scale, zero=np.zeros((4, 6)), axis=0, block_size=4))


def _one(m: Model) -> Value:
    return m.b.emit("matmul", m.both(m.x), m.b.constant(RNG.standard_normal((16, 6)).astype(np.float32)))


def _eights(m: Model) -> Value:
    array = RNG.standard_normal((16, 6)).astype(ml_dtypes.float8_e4m3fn)
    w = m.b.emit("dequantize_linear", m.b.constant(array), m.scale(0.5))
    return m.b.emit("matmul", m.both(m.x), w)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (_wide, "int16 is no type of 8 bits"),
        (_along_k, "vary along the axis that is summed"),
        (_blocks, "scales are of blocks"),
        (_one, "only its first operand"),
        (_eights, "float8_e4m3fn is no type of 8 bits"),
    ],
)
def test_what_stays_in_float_says_why(build: Callable[[Model], Value], reason: str) -> None:
    m = Model(5, 16)
    with m.b.at("product"):
        result = build(m)
    lowered = m.check(result)
    (spec,) = specs(lowered, GemmSpec)
    assert spec.a == F32
    assert reason in lowered.remarks["product"]


def test_equal_parameters_cancel() -> None:
    m = Model(2, 4, 6, 6)
    pooled = m.b.emit("pool", m.both(m.x), fn="max", kernel=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4)
    again = m.both(m.b.emit("transpose", pooled, perm=(0, 2, 3, 1)))
    lowered = m.check(m.quantize(again))
    assert len(specs(lowered, MapSpec)) == 1
    (window,) = specs(lowered, WindowSpec)
    assert window.dtype == U8


@pytest.mark.parametrize("scales", [(0.03, 0.03), (0.03, 0.05)])
def test_concat_is_of_bytes(scales: Sequence[float]) -> None:
    m = Model(2, 4, 6)
    parts = [m.both(m.b.emit("mul", m.x, m.scale(i + 1)), scale) for i, scale in enumerate(scales)]
    joined = m.b.emit("concat", *parts, axis=1)
    lowered = m.check(m.quantize(joined, 0.03), quanta=1)
    assert [spec.outputs[0].dtype for spec in specs(lowered, MapSpec)] == [U8] * 2  # each with its requantization
    assert {spec.bytes for spec in specs(lowered, MoveSpec)} <= {1}


def test_gathered_rows_of_a_table_are_bytes() -> None:
    m = Model(3, 8)
    index = m.b.emit("cast", m.x, to=dtypes.int64)
    lowered = m.check(m.b.emit("take", m.weight(40, 8), index, axis=0))
    assert [spec.bytes for spec in specs(lowered, MoveSpec)] == [1]
    assert {a.dtype for a in lowered.weights.values()} == {np.dtype(np.int8)}


def test_padding_is_the_zero_point() -> None:
    m = Model(2, 3)
    pads = m.b.constant(np.array([0, 1, 0, 2]))
    padded = m.b.emit("onnx_pad", m.both(m.x), pads, None, None)
    lowered = m.check(m.b.emit("matmul", padded, m.weight(6, 4)))
    assert gemm(lowered).a == U8


@pytest.mark.parametrize("op", ["add", "mul", "relu"])
def test_elementwise_work_is_one_map_of_bytes(op: str) -> None:
    m = Model(4, 6)
    one, other = m.quantize(m.x), m.quantize(m.x, 0.05, 7)
    values = [m.b.emit("dequantize_linear", one, m.scale(0.03), m.b.constant(np.uint8(120)))]
    if op != "relu":
        values.append(m.b.emit("dequantize_linear", other, m.scale(0.05), m.b.constant(np.uint8(7))))
    lowered = m.check(m.quantize(m.b.emit(op, *values), 0.06, 99), one, other, quanta=1)
    assert all(spec.outputs[0].dtype == U8 for spec in specs(lowered, MapSpec))


def test_bytes_that_others_read_are_dequantized_by_the_reader() -> None:
    """What a row program makes is stored once, in bytes, though a product and a sum read it."""
    m = Model(5, 16)
    norm = m.b.emit("layer_norm", m.x, *(m.b.constant(np.ones(16, np.float32)) for _ in range(2)), axis=-1,
                    epsilon=1e-5, stash_type=1)  # fmt: skip
    x = m.both(norm)
    total = m.b.emit("add", m.b.emit("matmul", x, m.weight(16, 16)), x)
    lowered = m.check(m.quantize(total, 0.2, 128), quanta=1)
    (row,) = specs(lowered, ReduceSpec)
    assert [e.dtype for e in row.element_outputs] == [U8]
    assert gemm(lowered).epilogue_inputs.count(U8) == 1


def test_multiplied_where_it_divided() -> None:
    """After a folded product no kernel divides by the scale; before one it does, as ONNX has it."""
    m = Model(5, 16)
    x = m.b.emit("add", m.b.emit("matmul", m.both(m.x), m.weight(16, 6)), m.b.constant(np.ones(6, np.float32)))
    lowered = m.check(m.quantize(m.b.emit("relu", x), 0.1, 0), quanta=1)
    assert "div" not in str(gemm(lowered).epilogue)
    (entry,) = specs(lowered, MapSpec)
    assert "div" in str(entry.outputs)


def test_computed_scales() -> None:
    """Of dynamic quantization, in place of constants."""
    m = Model(5, 16)
    q, scale, zero = m.b.emit_many("dynamic_quantize_linear", [m.x], {}, ["q", "scale", "zero"])
    x = m.b.emit("dequantize_linear", q, scale, zero)
    spec = gemm(m.check(m.b.emit("matmul", x, m.weight(16, 6, scale=CHANNEL_SCALES, zero=np.zeros(6), axis=1))))
    assert U8 in spec.epilogue_inputs


def test_half_precision_scales() -> None:
    m = Model(5, 16)
    half = [m.b.constant(np.float16(s)) for s in (0.03, 0.02)]
    x = m.b.emit("dequantize_linear", m.quantize(m.x), half[0], m.b.constant(np.uint8(120)))
    w = m.b.emit("dequantize_linear", m.b.constant(RNG.integers(-99, 99, (16, 6)).astype(np.int8)), half[1])
    product = m.b.emit("matmul", x, w)
    assert product.type.dtype == dtypes.float16
    # The reference rounds both operands to 11 bits, the product of bytes its result alone.
    assert gemm(m.check(product, quanta=0.1)).epilogue[0].dtype == dtypes.float16


def test_other_graphs_are_left_alone() -> None:
    m = Model(5, 16)
    graph: Graph = m.b.finish([m.b.emit("relu", m.x)])
    assert fold_quantized(graph) is graph
