"""`import runtime`: cheap, free of torch and onnx, and clear about strangers that took a package name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import runtime
from compiler import errors
from runtime.shadow import check_siblings

HOME = Path(__file__).parents[2]


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose sys.path starts with `path`."""
    start = f"import sys; sys.path[:0] = {[str(folder) for folder in path]}\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=HOME, check=False)


def test_import_takes_neither_torch_nor_onnx() -> None:
    done = run("import runtime; runtime.SansuanError; print(sorted({'torch', 'onnx', 'scipy'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_names_are_bound_on_first_use() -> None:
    assert runtime.ShapeError is errors.ShapeError
    assert "compile" in dir(runtime)
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        runtime.compil  # noqa: B018 - the access is the test


@pytest.mark.parametrize("name", ["compiler", "backends"])
@pytest.mark.parametrize("form", ["package", "module", "folder"])
def test_a_shadowed_package_is_named(tmp_path: Path, name: str, form: str) -> None:
    stranger = tmp_path / "other"
    path = stranger / f"{name}.py" if form == "module" else stranger / name
    if form == "module":
        stranger.mkdir()
        path.touch()
    else:
        path.mkdir(parents=True)
        if form == "package":
            (path / "__init__.py").touch()
    done = run("import runtime", stranger)
    if form == "folder":  # without __init__.py it is only a namespace portion: the real package wins
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert f"ImportError: sansuan: package `{name}` is shadowed by {path}" in done.stderr
        assert str(HOME / name) in done.stderr


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="`no_such_sibling` is missing, expected at"):
        check_siblings(tmp_path, ["no_such_sibling"])
