"""The `sansuan` command on small models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import runtime
from backends.native import tuning
from backends.native.cache import ObjectCache
from backends.native.choices import Choices
from runtime import cli

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """y = relu(x @ WEIGHT) and twice = ids + ids, with a named batch."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="multiply"),
        helper.make_node("Relu", ["product"], ["y"], name="clip"),
        helper.make_node("Add", ["ids", "ids"], ["twice"], name="double"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("twice", TensorProto.INT64, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, [numpy_helper.from_array(WEIGHT, "w")])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return str(path)


def test_target_tells_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["target"]) == 0
    lines = capsys.readouterr().out.splitlines()
    fields, units = lines[: lines.index("units")], lines[lines.index("units") + 1 :]
    found = dict(line.split(None, 1) for line in fields if not line.startswith(" "))
    target = runtime.target()
    families = [line.split()[0] for line in units if line.startswith("  ") and line[2] != " "]
    assert families == list(target.unit_families) and families[-1] == "generic"
    assert (found["triple"], found["cpu"], found["cores"]) == (target.triple, target.cpu, str(target.cores))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_compile_shows_inputs_and_ledger(model: str, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compile", model, "--backend", backend]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^input +x: float32\[batch, 4\]$", out, re.MULTILINE)
    assert re.search(r"^output +y: float32\[batch, 3\]$", out, re.MULTILINE)
    assert re.search(r"^compiled +in \d+\.\d+ s", out, re.MULTILINE)
    assert all(name in out for name in ("multiply", "clip", "double"))


def test_run_takes_arrays_from_a_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "inputs.npz"
    np.savez(file, x=np.ones((2, 4), np.float32), ids=np.array([5, 7]))
    assert cli.main(["run", model, "--inputs", str(file), "--repeat", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^result +y: float32\[2, 3\], min 18, max 26, mean 22$", out, re.MULTILINE)
    assert re.search(r"^result +twice: int64\[2\], min 10, max 14, mean 12$", out, re.MULTILINE)
    assert "latency" not in out


def test_run_makes_inputs_of_the_sizes_asked_for(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", model, "--size", "batch=5", "--repeat", "3"]) == 0
    out = capsys.readouterr().out
    assert "result    y: float32[5, 3]" in out
    assert re.search(r"^latency +median [\d.e-]+ ms, best .*, 3 runs$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "MODEL", "--size", "bach=5"], "ShapeError: --size bach: no input has a size of that name; .*batch"),
        (["compile", "absent.onnx"], "absent.onnx"),
        (["compile", __file__], "ModelError: .*no ONNX model"),
        (["run", "MODEL", "--inputs", __file__], "ModelError: .*not an .npz file"),
        (["compile", "MODEL", "--precision", "int3"], "int8"),
        (["compile", "MODEL", "--backend", "abacus"], "abacus"),
    ],
)
def test_errors_are_one_line_and_status_1(
    model: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([model if argument == "MODEL" else argument for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(f"sansuan: .*{expected}.*\n", error), error


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "m.onnx", "--size", "batch"], ["fly"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: sansuan" in capsys.readouterr().err


def test_python_m_runtime_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "runtime", "compile"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sansuan compile" in done.stderr


def test_tuning_runs_the_model_once(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with mock.patch.object(tuning, "runs_for", lambda ns: 0):
        assert cli.main(["compile", model, "--tune", "--size", "batch=40"]) == 0
    found = Choices(runtime.target(), ObjectCache(tmp_path / "sansuan")).known()
    assert [question.split()[0] for question in found] == ["cut"]
