"""`python -m bench` from its arguments to JSON lines, on small work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main


def run(arguments: list[str], file: Path) -> list[dict[str, object]]:
    """The JSON lines of a bench run with one round, those of the environment left out."""
    main([*arguments, "--rounds", "1", "--json", str(file)])
    environment, *results = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert environment["bench"] == "environment"
    assert environment["versions"]["numpy"]
    return results


def test_gemm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gemm", "--dtype", "float64", "--shapes", "5x7x3", "--contestants", "sansuan,openvino,numpy"]
    results = run(arguments, tmp_path / "lines")
    assert [(row["b"], row["contestant"]) for row in results] == [
        (form, name) for form in ("constant", "input") for name in ("openvino", "sansuan", "numpy")
    ]
    # OpenVINO computes float64 products in float32.
    assert all(("refused" in row) == (row["contestant"] == "openvino") for row in results)
    assert {(row["m"], row["n"], row["k"], row["dtype"]) for row in results} == {(5, 7, 3, "float64")}
    assert "5x7x3 (MxNxK), constant B, float64, 1 threads, peak" in capsys.readouterr().out


def test_models(tmp_path: Path) -> None:
    results = run(["models", "--models", "mlp", "--contestants", "sansuan,onnxruntime,torch"], tmp_path / "lines")
    assert [row["contestant"] for row in results] == ["sansuan", "onnxruntime", "torch"]
    assert all(0 <= float(str(row["error"])) < 1e-6 for row in results)


def test_an_unknown_bench_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "gemm|models|compile|call" in capsys.readouterr().err
