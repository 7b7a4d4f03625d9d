"""Canonical forms that need a proof."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.sizes import GuardBroken
from backends.native.target import host
from compiler import dtypes
from compiler.builder import Builder
from compiler.errors import IndexOutOfRange
from compiler.ir import Graph
from compiler.passes.canonicalize import canonicalize
from compiler.passes.specialize import specialize
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from tests.compiler.test_random_graphs import Settings


def taken(*positions: int) -> Graph:
    """Constant positions of an axis of any size."""
    b = Builder()
    x = b.input("x", TensorType(dtypes.float32, (b.claim_symbol("n"), 3)))
    return b.finish([b.emit("take", x, b.constant(np.array(positions)), axis=0)])


@pytest.mark.parametrize("positions", [(0,), (-1,), (-3,), (1, 3), (4, 2, 0)])
def test_a_slice_at_known_positions_checks_that_they_exist(positions: tuple[int, ...]) -> None:
    graph = taken(*positions)
    assert [node.op for node in canonicalize(graph).nodes] == ["slice"]
    executable = Executable(lower_graph(graph), host(), Settings())
    needed = max(p + 1 if p >= 0 else -p for p in positions)
    x = np.arange(3 * needed, dtype=np.float32).reshape(needed, 3)
    np.testing.assert_array_equal(executable.run([x])[0], x[list(positions)])
    short = np.zeros((needed - 1, 3), np.float32)
    with pytest.raises(GuardBroken):
        executable.run([short])
    special = Executable(lower_graph(specialize(graph, [short.shape])), host(), Settings())
    with pytest.raises(IndexOutOfRange):
        special.run([short])


@pytest.mark.parametrize("positions", [(0, 0), (0, 1, 3), (-1, 0), (2, -2)])
def test_other_positions_stay_a_gather(positions: tuple[int, ...]) -> None:
    assert [node.op for node in canonicalize(taken(*positions)).nodes] == ["take"]


def test_derived_sizes_are_specialized() -> None:
    b = Builder()
    n = b.claim_symbol("n")
    x = b.input("x", TensorType(dtypes.float32, (n * 2 + 1, 3)))
    graph = b.finish([b.emit("expand", b.constant(np.ones((1, 1), np.float32)), b.sizes((n, 3))), x])
    (ones, _) = specialize(graph, [(7, 3)]).outputs
    assert ones.type.shape == (3, 3)
