"""Products and convolutions with activations, against ONNX Runtime; models as its optimizers rewrite them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.transformers.optimizer import optimize_model

import runtime
from models.bert import build
from models.export import to_onnx
from tests.compiler.ops.contrib_check import check

RNG = np.random.default_rng(41)
ACTIVATIONS = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": (0.1,), "HardSigmoid": (0.3, 0.4), "Clip": (-0.5, 0.7),
}  # fmt: skip


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "Clip"])
def test_fused_gemm(activation: str) -> None:
    names = ("activation_alpha", "activation_beta")
    attrs = dict(zip(names, ACTIVATIONS[activation], strict=False))
    check("FusedGemm", [draw(3, 7), draw(7, 5), draw(5)], weights=[1, 2], activation=activation, **attrs)
    turned = {"transA": 1, "transB": 1, "alpha": 0.5, **attrs}
    check("FusedGemm", [draw(7, 3), draw(5, 7)], weights=[1], activation=activation, **turned)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_convolution(activation: str) -> None:
    parameters = ACTIVATIONS[activation]
    attrs = {"activation": activation, **({"activation_params": parameters} if parameters else {})}
    x, w = draw(2, 4, 7, 8), draw(6, 4, 3, 3) * 0.3
    check("FusedConv", [x, w], weights=[1], pads=[1, 1, 1, 1], symbolic=False, **attrs)
    check("FusedConv", [x, w, draw(6), draw(2, 6, 3, 4)], weights=[1, 2], symbolic=False, strides=[2, 2],
          pads=[0, 0, 0, 1], kernel_shape=[3, 3], **attrs)  # fmt: skip


@pytest.fixture(scope="module")
def exported() -> tuple[bytes, list[np.ndarray]]:
    """A small BERT from torch, and inputs."""
    model, inputs = build("tiny", batch=2, seq=9)
    return to_onnx(model, inputs, dynamic=({0: "batch", 1: "seq"},) * 3), [x.numpy() for x in inputs]


@pytest.mark.parametrize("tool", ["optimizer", "session"])
def test_optimized_bert(tool: str, tmp_path: Path, exported: tuple[bytes, list[np.ndarray]]) -> None:
    """What ONNX Runtime's transformer optimizer and its sessions make of a model gives the model's results."""
    plain, saved = tmp_path / "plain.onnx", tmp_path / "saved.onnx"
    plain.write_bytes(exported[0])
    if tool == "optimizer":
        optimize_model(str(plain), model_type="bert", opt_level=0).save_model_to_file(str(saved))
    else:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath, options.log_severity_level = str(saved), 3
        onnxruntime.InferenceSession(plain, options, ["CPUExecutionProvider"])
    fused = {node.op_type for node in onnx.load(saved).graph.node if node.domain == "com.microsoft"}
    assert {"SkipLayerNormalization", "BiasGelu"} <= fused
    program = runtime.compile(saved)
    for found, expected in zip(program(*exported[1]), runtime.compile(plain)(*exported[1]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    assert not [row for row in program.ledger() if row.unit == "host"]
