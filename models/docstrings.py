"""English text that comes with Python: the docstrings of its standard library."""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from functools import cache
from pathlib import Path

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def docstrings() -> tuple[str, ...]:
    """The different docstrings of the standard library's single-file modules, sorted, indentation removed; read from
    the sources, importing nothing. The same for every run of one Python version."""
    found: set[str] = set()
    for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
        texts = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
        found.update(inspect.cleandoc(text) for text in texts if text)
    return tuple(sorted(found - {""}))
