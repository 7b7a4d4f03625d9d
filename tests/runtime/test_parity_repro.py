"""Files for bug reports: a model of the one node, its operands, and what it should give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models import mlp
from runtime.parity.compare import compare
from runtime.parity.report import Report
from tests.runtime.parity_faults import planted
from tests.runtime.parity_models import MODELS, quantized


def diverging(path: Path) -> tuple[Report, Path]:
    made, draw = MODELS["attention"]()
    with planted("bf16", "MatMul.wide0"):
        report = compare(made, draw(1), cache=False)
    return report, report.save_repro(path / "repro")


def test_a_repro_is_a_model_of_the_one_node(tmp_path: Path) -> None:
    report, path = diverging(tmp_path)
    made = onnx.load(path)
    onnx.checker.check_model(made)
    assert [proto.name for proto in made.graph.node] == ["MatMul.wide0"]
    assert [tensor.name for tensor in made.graph.initializer] == ["w1"]
    inputs, expected = (dict(np.load(path.parent / f"{name}.npz")) for name in ("inputs", "expected"))
    (found,) = onnxruntime.InferenceSession(path).run(None, inputs)
    assert np.allclose(found, expected["wide0"], rtol=1e-5, atol=1e-5)
    text = (path.parent / "README.txt").read_text()
    assert "MatMul.wide0" in text and "relative L2" in text
    with planted("bf16", "MatMul.wide0"):  # and it shows the fault
        again = compare(path, inputs, cache=False)
    assert again.first_divergence is not None and again.first_divergence.node == report.first_divergence.node


@pytest.mark.parametrize("exporter", ["onnx", "torch"])
def test_a_repro_of_a_torch_model(exporter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = mlp.build(batch=2)
    if exporter == "torch":
        monkeypatch.setattr(torch.onnx, "export", lambda *args, **named: (_ for _ in ()).throw(RuntimeError("no")))
    with planted("constant", "2/linear_1"):
        report = compare(module, inputs, cache=False)
    path = report.save_repro(tmp_path)
    fed, expected = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("inputs", "expected"))
    if exporter == "onnx":
        assert path.name == "model.onnx"
        (found,) = onnxruntime.InferenceSession(path).run(None, fed)
    else:
        assert path.name == "model.pt2"
        found = torch.export.load(path).module()(*map(torch.from_numpy, fed.values())).detach().numpy()
    assert np.allclose(found, expected["linear_1"], rtol=1e-5, atol=1e-5)


def test_a_repro_without_a_divergence_is_of_the_node_nearest_to_its_bound(tmp_path: Path) -> None:
    made, draw = quantized()
    report = compare(made, draw(0))
    path = report.save_repro(tmp_path)
    ranked = max(report.rows, key=lambda row: row.own["native"].excess)
    assert [proto.name for proto in onnx.load(path).graph.node] == [ranked.node]
