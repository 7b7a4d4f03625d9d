"""Models as onnxruntime.quantization and NNCF write them: integer kernels, and ONNX Runtime's results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import runtime
from runtime.ledger import LedgerRow
from tests.runtime import quantized_models as models

MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": models.mlp, "residual": models.residual, "transformer": models.transformer,
}  # fmt: skip
FORMS: dict[str, Callable[[onnx.ModelProto, Path], bytes]] = {
    "dynamic": models.dynamic,
    "QDQ u8": lambda model, path: models.static(model, path, "u8"),
    "QDQ s8 channels": lambda model, path: models.static(model, path, "s8", channels=True),
    "QOperator": lambda model, path: models.static(model, path, "u8", "QOperator"),
}


def last_quantum(model: bytes) -> float:
    """The scale that the result was last quantized with; 0 where it was not."""
    graph = onnx.load_from_string(model).graph
    known = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    last = graph.node[-1]
    return float(known[last.input[1]]) if last.op_type == "DequantizeLinear" else 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_results_are_onnx_runtimes_and_products_of_bytes(name: str, form: str, tmp_path: Path) -> None:
    plain = MODELS[name]()
    model = FORMS[form](plain, tmp_path)
    x = models.sample_input(plain, np.random.default_rng(9))
    program = runtime.compile(model, threads=1)
    quantum = last_quantum(model)
    # Its integer kernels may round a number before a norm to the other side, which moves the result by two quanta.
    for optimized, quanta in ((False, 1.001), (True, 2.001 if name == "transformer" else 1.001)):
        for ours, theirs in zip(program(x), models.expected(model, x, optimized), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=quanta * quantum + 2e-6)
    rows = program.ledger()
    assert not [row for row in rows if row.unit == "host"]
    products = [row for row in rows if row.op in PRODUCTS]
    assert products
    for row in products:
        of_bytes = row.in_dtype in ("int8", "uint8") and row.acc_dtype == "int32"
        assert of_bytes or _may_be_float(row, form), row


PRODUCTS = {"MatMul", "Gemm", "Conv", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm"}


def _may_be_float(row: LedgerRow, form: str) -> bool:
    """Depthwise convolutions are, exactly, and so is attention between products that are quantized dynamically."""
    return "window" in row.kernel or (form == "dynamic" and row.op == "MatMul")


def test_nncf() -> None:
    """Weights in float that the model itself quantizes and dequantizes, per output channel; activations too."""
    m = models.Model()

    def fake(x: str, scale: np.ndarray, zero: np.ndarray, axis: int = 0) -> str:
        names = [m.weight(scale), m.weight(zero)]
        attrs = {"axis": axis} if scale.ndim else {}
        return m.node("DequantizeLinear", m.node("QuantizeLinear", x, *names, **attrs), *names, **attrs)

    def activation(x: str, scale: float, zero: int) -> str:
        return fake(x, np.array(scale, np.float32), np.array(zero, np.uint8))

    def weight(*shape: int) -> str:
        scale = m.rng.uniform(0.002, 0.004, shape[0]).astype(np.float32)
        return fake(m.draw(*shape, scale=0.2), scale, np.zeros(shape[0], np.int8))

    x = m.node("Conv", activation("x", 0.02, 128), weight(8, 3, 3, 3), m.draw(8), pads=[1] * 4)
    x = m.node("Flatten", activation(m.node("Relu", x), 0.03, 0))
    model = m.finish((2, 3, 6, 6), m.node("Gemm", x, weight(5, 288), m.draw(5), transB=1)).SerializeToString()
    program = runtime.compile(model, threads=1)
    array = np.random.default_rng(2).standard_normal((2, 3, 6, 6)).astype(np.float32)
    (found,), (wanted,) = program(array), models.expected(model, array)
    np.testing.assert_allclose(found, wanted, atol=288 * 1e-6 + 0.003 * 127 * 0.03, rtol=1e-5)
    rows = {row.op: row for row in program.ledger() if row.op in ("Conv", "Gemm")}
    assert {(row.in_dtype, row.acc_dtype) for row in rows.values()} == {("uint8", "int32")}
