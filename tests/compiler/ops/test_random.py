"""Random ops: types, distributions, seeds; never folded into constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.reference.interpreter import run
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.frontends.onnx_node import OnnxNode
from compiler.ir import Graph
from compiler.op import ONNX_ROWS, lookup
from compiler.passes.fold import fold
from compiler.types import TensorType


def drawing(op_type: str, like: TensorType | None = None, **attrs: Any) -> Graph:
    """A graph of one ONNX node, folded."""
    lookup("random_normal")
    b = Builder()
    inputs = () if like is None else (b.input("x", like),)
    value = ONNX_ROWS["", op_type][1].build(b, OnnxNode(op_type, "", inputs, ("y",), attrs, 22))  # type: ignore[misc]
    return fold(b.finish([value]))


@pytest.mark.parametrize(
    ("op_type", "attrs", "mean", "deviation"),
    [
        ("RandomNormal", {"mean": 3.0, "scale": 2.0}, 3.0, 2.0),
        ("RandomUniform", {"low": -1.0, "high": 5.0}, 2.0, 6 / 12**0.5),
    ],
)
def test_distributions(op_type: str, attrs: dict[str, Any], mean: float, deviation: float) -> None:
    (found,) = run(drawing(op_type, shape=(200, 300), seed=7.0, dtype=11, **attrs), [])
    assert found.shape == (200, 300) and found.dtype == np.float64
    assert abs(found.mean() - mean) < 0.05 and abs(found.std() - deviation) < 0.05


@pytest.mark.parametrize("op_type", ["RandomNormal", "RandomUniform"])
def test_runs_differ_unless_seeded(op_type: str) -> None:
    free, seeded = drawing(op_type, shape=(8,)), drawing(op_type, shape=(8,), seed=0.5)
    assert not np.array_equal(run(free, [])[0], run(free, [])[0])
    np.testing.assert_array_equal(run(seeded, [])[0], run(seeded, [])[0])


def test_like_takes_shape_and_type() -> None:
    like = TensorType(dtypes.float16, (dims.symbol("n"), 3))
    graph = drawing("RandomUniformLike", like, low=1.0, high=2.0)
    assert graph.outputs[0].type == like
    (found,) = run(graph, [np.zeros((4, 3), np.float16)])
    assert found.shape == (4, 3) and np.all((found >= 1) & (found <= 2))


def test_bernoulli_draws_by_the_elements() -> None:
    graph = drawing("Bernoulli", TensorType(dtypes.float32, (3, 5000)), dtype=6)
    (found,) = run(graph, [np.repeat(np.array([[0], [0.25], [1]], np.float32), 5000, axis=1)])
    assert found.dtype == np.int32
    shares = found.mean(axis=1)
    assert shares[0] == 0 and shares[2] == 1 and abs(shares[1] - 0.25) < 0.05
