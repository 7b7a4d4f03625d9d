"""Weights of 4 and 8 bits as ONNX Runtime stores them, against ONNX Runtime's own kernels."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import runtime
from compiler.errors import UnsupportedOp
from tests.compiler.ops.contrib_check import check, expected, model_of

RNG = np.random.default_rng(30)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def operands(m: int, k: int, n: int, bits: int, block: int, zeros: str = "") -> list[np.ndarray | None]:
    """x, B, scales and zero points ("", "packed" or "float") of MatMulNBits."""
    groups = -(-k // block)
    packed = RNG.integers(0, 256, (n, groups, block * bits // 8)).astype(np.uint8)
    shift: np.ndarray | None = None
    if zeros == "packed":
        shift = RNG.integers(0, 256, (n, -(-groups * bits // 8))).astype(np.uint8)
    elif zeros:
        shift = RNG.uniform(0, 1 << bits, (n, groups)).astype(np.float32)
    return [draw(m, k), packed, RNG.uniform(0.01, 0.1, (n, groups)).astype(np.float32), shift]


@pytest.mark.parametrize(
    ("bits", "zeros"), [(4, ""), (4, "packed"), (4, "float"), (8, ""), (8, "packed")]
)  # float zero points of 8 bits it has not
def test_matmul(bits: int, zeros: str) -> None:
    for m, k, n, block in ((1, 64, 40, 32), (5, 100, 17, 16), (3, 130, 9, 128)):
        inputs = operands(m, k, n, bits, block, zeros)
        options = {"K": k, "N": n, "bits": bits, "block_size": block}
        check("MatMulNBits", inputs, weights=[1, 2, 3], tolerance=2e-5, symbolic=False, **options)


def test_bias_batches_and_accuracy_level() -> None:
    x, packed, scales, _ = operands(6, 64, 24, 4, 32)
    inputs = [x.reshape(2, 3, 64), packed, scales, None, None, draw(24)]
    program = check("MatMulNBits", inputs, weights=[1, 2, 5], tolerance=2e-5, K=64, N=24, bits=4, block_size=32)
    exact = program(inputs[0])[0]
    model = model_of("MatMulNBits", inputs, ["y"], {"K": 64, "N": 24, "bits": 4, "block_size": 32, "accuracy_level": 4},
                     symbolic=False, weights=[1, 2, 5])  # fmt: skip
    np.testing.assert_array_equal(runtime.compile(model)(inputs[0])[0], exact)


def test_what_is_no_constant_is_dequantized_in_the_call() -> None:
    for zeros in ("", "packed"):
        inputs = operands(3, 64, 20, 4, 32, zeros)
        for weights in ([2], [1, 2], [2, 3]):
            check("MatMulNBits", inputs, weights=weights if inputs[3] is not None else weights[:2], tolerance=2e-5,
                  symbolic=False, K=64, N=20, bits=4, block_size=32)  # fmt: skip


@pytest.mark.parametrize(("bits", "zeros"), [(4, "packed"), (8, "")])
def test_weights_stay_in_their_codes(bits: int, zeros: str) -> None:
    """Those too whose scales are more than are folded."""
    k, n = 1024, 2048
    inputs = operands(1, k, n, bits, 16, zeros)
    attrs = {"K": k, "N": n, "bits": bits, "block_size": 16}
    model = model_of("MatMulNBits", inputs, ["y"], attrs, symbolic=True, weights=[1, 2, 3])
    program = runtime.compile(model)
    np.testing.assert_allclose(program(inputs[0])[0], expected(model, inputs)[0], rtol=1e-4, atol=5e-3)
    assert program.statistics().weight_bytes <= k * n * (bits / 8 + (4 + bool(zeros)) / 16) * 1.1


def test_columns_in_another_order() -> None:
    """g_idx: columns of x sorted by their groups; uneven ones are refused."""
    k, block = 64, 32
    x, packed, scales, _ = operands(3, k, 12, 4, block)
    attrs = {"K": k, "N": 12, "bits": 4, "block_size": block}
    groups = RNG.permutation(np.repeat(np.arange(2), block)).astype(np.int32)
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(12, k).astype(np.float32) - 8
    weights = codes * scales[:, groups]
    model = model_of("MatMulNBits", [x, packed, scales, None, groups], ["y"], attrs, symbolic=False, weights=[1, 2, 4])
    np.testing.assert_allclose(runtime.compile(model)(x)[0], x @ weights.T, rtol=1e-4, atol=1e-4)
    groups[:] = 0
    model = model_of("MatMulNBits", [x, packed, scales, None, groups], ["y"], attrs, symbolic=False, weights=[1, 2, 4])
    with pytest.raises(UnsupportedOp, match="g_idx of uneven groups"):
        runtime.compile(model)


def test_other_widths_are_refused() -> None:
    inputs = operands(2, 64, 8, 4, 32)
    model = model_of("MatMulNBits", inputs, ["y"], {"K": 64, "N": 8, "bits": 2, "block_size": 32}, symbolic=False)
    with pytest.raises(UnsupportedOp, match="2 bits"):
        runtime.compile(model)


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_models_of_its_quantizer(form: str, symmetric: bool, bits: int) -> None:
    if form == "QDQ" and bits == 8:
        pytest.skip("the quantizer writes no such models")
    w, v, bias = draw(96, 48), draw(48, 40), draw(48)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "bias"], ["a"]),
             helper.make_node("Relu", ["a"], ["r"]), helper.make_node("MatMul", ["r", "v"], ["y"])]  # fmt: skip
    formal = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", size]) for name, size in (("x", 96), ("y", 40))
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in (("w", w), ("v", v), ("bias", bias))]
    graph = helper.make_graph(nodes, "two", formal[:1], formal[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    quantizer = MatMulNBitsQuantizer(
        model, block_size=32, is_symmetric=symmetric, bits=bits, quant_format=QuantFormat[form]
    )
    quantizer.process()
    quantized = quantizer.model.model
    quantized.opset_import[0].version = 21
    options = onnxruntime.SessionOptions()  # as it is: optimizing rounds activations to 8 bits
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(quantized.SerializeToString(), options, ["CPUExecutionProvider"])
    program = runtime.compile(quantized)
    for m in (1, 3, 9):
        x = draw(m, 96)
        np.testing.assert_allclose(program(x)[0], session.run(None, {"x": x})[0], rtol=2e-4, atol=2e-4)
    codes = (96 * 48 + 48 * 40) * (bits / 8 + 5 / 32)
    assert program.statistics().weight_bytes <= codes * 1.6 + 1024, "weights stay in their codes"


def test_gathered_rows() -> None:
    places = np.array([[3, 0, 5], [-1, 2, 2]], np.int64)
    for kind in (ml_dtypes.int4, ml_dtypes.uint4):
        data, scales = RNG.integers(0, 8, (6, 32)).astype(kind), RNG.uniform(0.1, 1, (6, 2)).astype(np.float32)
        zeros = RNG.integers(0, 8, (6, 2)).astype(kind)
        for shift in (None, zeros):
            table = data.astype(np.float32) - (0 if shift is None else np.repeat(zeros.astype(np.float32), 16, 1))
            run_gather(places, data, scales, shift, (table * np.repeat(scales, 16, 1))[places])
    packed = RNG.integers(0, 256, (6, 16)).astype(np.uint8)
    scales = RNG.uniform(0.1, 1, (6, 2)).astype(np.float32)
    inputs = [packed, places, scales]
    model = model_of(
        "GatherBlockQuantized", inputs, ["y"], {"block_size": 16, "bits": 4}, symbolic=False, weights=[0, 2]
    )
    np.testing.assert_allclose(runtime.compile(model)(places)[0], expected(model, inputs)[0], rtol=1e-6)


def run_gather(
    places: np.ndarray, data: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, wanted: np.ndarray
) -> None:
    kind = TensorProto.INT4 if data.dtype == ml_dtypes.int4 else TensorProto.UINT4
    constants = [numpy_helper.from_array(scales, "scales")]
    for name, array in (("data", data), ("zeros", zeros)):
        if array is not None:
            constants.append(helper.make_tensor(name, kind, array.shape, array.astype(int).ravel()))
    names = ["data", "places", "scales", *([] if zeros is None else ["zeros"])]
    node = helper.make_node("GatherBlockQuantized", names, ["y"], domain="com.microsoft", block_size=16)
    formal = [helper.make_tensor_value_info("places", TensorProto.INT64, places.shape)]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", formal, out, constants), opset_imports=opsets, ir_version=10
    )
    np.testing.assert_allclose(runtime.compile(model)(places)[0], wanted, rtol=1e-6)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"places": places})[0], wanted, rtol=1e-6)
