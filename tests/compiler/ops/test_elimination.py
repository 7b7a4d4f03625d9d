"""Linear systems whose matrices are special: rows that must change places, and none that can."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from compiler.builder import Builder
from compiler.op import lookup
from compiler.pipeline import lower_graph
from compiler.types import of_array
from runtime.options import Options

EXCHANGED = np.array([[0, 2, 1], [4, 0, 1], [0, 1, 5]])
SINGULAR = np.stack([np.eye(2), np.ones((2, 2))])
CASES = {
    "zeros above": (EXCHANGED.astype(np.float32), np.arange(24, dtype=np.float32).reshape(4, 3, 2), 1e-6),
    "one singular": (SINGULAR, np.ones((2, 2, 1)), 0.0),
    "column of zeros": (np.array([[2.0, 0, 2], [2, 0, 0], [0, 0, 2]]), np.ones((3, 1)), 0.0),
    "float16": (EXCHANGED.astype(np.float16), np.eye(3, dtype=np.float16), 1e-3),
}


@pytest.mark.parametrize("name", CASES)
def test_solve(name: str) -> None:
    a, rhs, tolerance = CASES[name]
    b = Builder()
    graph = b.finish([b.emit("solve", b.input("a", of_array(a)), b.input("b", of_array(rhs)))])
    (found,) = Executable(lower_graph(graph), host(), Options(threads=1, cache_dir=None)).run([a, rhs])
    expected = lookup("solve").reference(a, rhs)  # type: ignore[misc]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
