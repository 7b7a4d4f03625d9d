"""`python -m bench` from its arguments to JSON lines, on small work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.product import MOST_PRODUCTS


def run(arguments: list[str], file: Path) -> list[dict[str, object]]:
    """The JSON lines of a bench run with one round, those of the environment left out."""
    main([*arguments, "--rounds", "1", "--json", str(file)])
    environment, *results = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert environment["bench"] == "environment"
    assert environment["versions"]["numpy"]
    return results


def test_gemm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "roofline.png"
    arguments = ["gemm", "--dtype", "float64", "--shapes", "2x7x3", "--contestants", "sansuan,openvino,numpy"]
    results = run([*arguments, "--figure", str(figure)], tmp_path / "lines")
    products = [row for row in results if "contestant" in row]
    # OpenVINO computes float64 products in float32; a weight so small is not measured cold.
    assert [(row["b"], row["contestant"], "refused" in row) for row in products] == [
        (form, name, name == "openvino") for form in ("constant", "input") for name in ("openvino", "sansuan", "numpy")
    ]
    assert {(row["m"], row["n"], row["k"], row["dtype"]) for row in products} == {(2, 7, 3, "float64")}
    assert {row["copies"] for row in products if row["b"] == "constant"} == {MOST_PRODUCTS}
    assert [row["roofs"] for row in results if "roofs" in row] == ["float64"]
    assert [(row["b"], row["worst_shape"]) for row in results if "summary" in row] == [
        ("constant", "2x7x3"), ("input", "2x7x3")
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "float64, constant B, 1 threads" in printed
    assert "openvino: unsupported: computes float64 in FP32" in printed
    assert figure.stat().st_size > 0


@pytest.mark.parametrize(
    ("option", "word"), [("--shapes", "12x12"), ("--dtype", "float8"), ("--b", "warm"), ("--contestants", "blas")]
)
def test_gemm_says_what_it_does_not_know(option: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gemm", option, word])
    assert word in capsys.readouterr().err


def test_models(tmp_path: Path) -> None:
    results = run(["models", "--models", "mlp", "--contestants", "sansuan,onnxruntime,torch"], tmp_path / "lines")
    assert [row.get("contestant") for row in results] == ["sansuan", "onnxruntime", "torch", None]
    assert all(0 <= float(str(row["error"])) < 1e-6 for row in results)
    assert {row["precision"] for row in results} == {"fp32"}


def test_models_in_two_precisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["models", "--models", "mlp", "--precisions", "bf16,int8", "--contestants", "onnxruntime,torch"]
    found = [(row["precision"], row["contestant"], "refused" in row) for row in run(arguments, tmp_path / "lines")]
    assert found == [
        ("bf16", "onnxruntime", True), ("bf16", "torch", False), ("bf16", "torch-autocast", False),
        ("int8", "onnxruntime-dynamic", False), ("int8", "torch-dynamic", False), ("int8", "onnxruntime-qdq", False),
    ]  # fmt: skip
    assert "has no bfloat16 kernels on the CPU" in capsys.readouterr().out


def test_models_says_which_precisions_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "--precisions", "fp32,fp16"])
    assert "unknown fp16; expected of fp64, fp32, bf16, int8" in capsys.readouterr().err


def test_an_unknown_bench_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "gemm|models|compile|call" in capsys.readouterr().err
