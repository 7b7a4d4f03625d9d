"""`sansuan compare`: exit status, report, files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from runtime import cli
from tests.runtime.parity_faults import planted
from tests.runtime.parity_models import quantized


@pytest.fixture
def path(tmp_path: Path) -> str:
    onnx.save(quantized()[0], tmp_path / "model.onnx")
    return str(tmp_path / "model.onnx")


def test_agreement_is_status_0(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "out.html"
    arguments = ["compare", path, "--against", "onnxruntime,fp64", "--size", "batch=3", "--html", str(page)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith("agree: native, onnxruntime against fp64, 12 nodes")
    assert page.read_text().startswith("<!doctype html>")


def test_disagreement_is_status_3(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "inputs.npz"
    np.savez(file, **quantized()[1](0))
    with planted("constant", "Mul.h0"):
        status = cli.main(["compare", path, "--inputs", str(file), "--repro", str(tmp_path / "repro")])
    out = capsys.readouterr().out
    assert status == 3
    assert "first divergence: Mul.h0 (Mul): native" in out
    assert f"repro     {tmp_path / 'repro' / 'model.onnx'}" in out
    assert (tmp_path / "repro" / "inputs.npz").exists()


def test_another_backend_may_be_the_reference(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", path, "--candidate", "reference", "--against", "onnxruntime"]) == 0
    assert "agree: reference against onnxruntime" in capsys.readouterr().out


def test_a_tolerance_may_be_asked_for(path: str) -> None:
    assert cli.main(["compare", path, "--tolerance", "1e-12"]) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--against", "abacus"], "SansuanError: candidate 'abacus': no such candidate; .*native"),
        (["--against", ","], "--against: nothing named"),
        (["--size", "rows=2"], "ShapeError: --size rows: no input has a size of that name"),
        (["--inputs", __file__], "ModelError: .*not an .npz file"),
    ],
)
def test_errors_are_one_line_and_status_1(
    path: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", path, *arguments]) == 1
    assert re.fullmatch(f"sansuan: .*{expected}.*\n", capsys.readouterr().err)
