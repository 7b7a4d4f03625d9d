"""Rules of the repository itself: who may import whom, who may name an instruction set, who reads the environment."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
SHIPPED = ("runtime", "compiler", "backends")
SOURCES = (*SHIPPED, "models", "bench", "docs")
LONGEST = 320  # lines

# compiler <- backends <- runtime <- models, bench, tests <- docs, which are made from what tests find
FORBIDDEN = {
    "compiler": {"backends", "runtime", "models", "bench", "tests", "llvmlite"},
    "backends": {"runtime", "models", "bench", "tests", "torch"},
    "runtime": {"models", "bench", "tests"},
    "models": {"bench", "tests"},
    "bench": {"tests"},
    "docs": set(),
}
HEAVY = {"torch", "onnx"}  # allowed inside functions, and at the top of modules that are loaded for such a model only
HEAVY_MODULES = (
    "compiler/frontends/onnx", "compiler/frontends/torch", "runtime/onnx_backend.py", "runtime/torch_backend.py"
)  # fmt: skip

ISA = re.compile(r"(?<![a-z])(avx\d*|amx|sme2?|neon|vnni|zmm|ymm)(?![a-z])", re.IGNORECASE)
ISA_PLACES = (
    "backends/native/units/",
    "backends/native/amx_probe.py",
    "backends/native/target.py",
    "backends/native/arm_features.py",
    "bench/model_machines.py",  # a table of processors, each with what it has
    "bench/model_code.py",  # reads assembler text
    "tests/bench/test_model_code.py",
    "tests/backends/native/",
    "tests/emulation/",
    "tests/test_repository.py",
)

ENVIRONMENT = re.compile(r"\benviron\b|\bgetenv\b")


def modules(*folders: str) -> list[str]:
    """Paths of the Python files below folders, relative to the repository."""
    return sorted(path.relative_to(HOME).as_posix() for folder in folders for path in (HOME / folder).rglob("*.py"))


def read(path: str) -> str:
    return (HOME / path).read_text(encoding="utf-8")


def lines_matching(path: str, pattern: re.Pattern[str]) -> list[str]:
    return [f"{path}:{i}: {line.strip()}" for i, line in enumerate(read(path).splitlines(), 1) if pattern.search(line)]


def imports(body: list[ast.stmt], at_import_time: bool) -> Iterator[str]:
    """Top-level names of the packages a body imports; with `at_import_time` only those that importing it loads."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.split(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"relative import in line {statement.lineno}"
            yield (statement.module or "").split(".")[0]
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        elif not (at_import_time and isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)):
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                children = getattr(statement, field, [])
                for child in children:
                    nested = [child] if isinstance(child, ast.stmt) else child.body
                    yield from imports(nested, at_import_time)


@pytest.mark.parametrize("folder", SOURCES)
def test_dependencies_go_one_way(folder: str) -> None:
    wrong = {
        path: found
        for path in modules(folder)
        if (found := FORBIDDEN[folder] & set(imports(ast.parse(read(path)).body, at_import_time=False)))
    }
    assert not wrong


def test_torch_and_onnx_are_imported_for_their_models_only() -> None:
    wrong = {
        path: found
        for path in modules(*SHIPPED)
        if not path.startswith(HEAVY_MODULES)
        and (found := HEAVY & set(imports(ast.parse(read(path)).body, at_import_time=True)))
    }
    assert not wrong


def test_the_compiler_loads_without_torch_onnx_and_llvmlite() -> None:
    names = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in modules("compiler")
        if not path.startswith(HEAVY_MODULES)
    ]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    code += "print(sorted({'torch', 'onnx', 'llvmlite', 'backends', 'runtime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_instruction_sets_are_named_in_their_own_places_only() -> None:
    paths = [path for path in modules(*SOURCES, "tests") if not path.startswith(ISA_PLACES)]
    assert [line for path in paths for line in lines_matching(path, ISA)] == []


def test_one_module_reads_the_environment() -> None:
    paths = [path for path in modules(*SHIPPED, "models", "docs") if path != "runtime/options.py"]
    assert [line for path in paths for line in lines_matching(path, ENVIRONMENT)] == []


def test_no_file_grows_too_long() -> None:
    lengths = {path: len(read(path).splitlines()) for path in modules(*SOURCES)}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [
        path for path in modules(*SOURCES) if read(path).strip() and not ast.get_docstring(ast.parse(read(path)))
    ] == []


def test_the_page_of_ops_is_current() -> None:
    from docs import generate

    assert generate.PATH.read_text(encoding="utf-8") == generate.text(), "run `make docs`"
