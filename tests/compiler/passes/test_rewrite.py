"""Rewriting: what a replacement infers anew keeps the sizes that others know it by."""

from __future__ import annotations

import numpy as np

from backends.reference.interpreter import run
from compiler import dtypes
from compiler.builder import Builder
from compiler.ir import Graph
from compiler.op import lookup
from compiler.pipeline import optimize
from compiler.rewrite import rewrite
from compiler.types import TensorType


def filled(times: int = 1) -> Graph:
    """Tensors of a computed shape, and a consumer that knows them by sizes inference invented."""
    b = Builder()
    shape = b.input("shape", TensorType(dtypes.int64, (2,)))
    attrs = {"value": np.float32([3])}
    made = [b.emit("constant_of_shape", shape, **attrs) for _ in range(times)]
    return b.finish([b.emit("transpose", value, perm=(1, 0)) for value in made])


def test_a_decomposition_keeps_the_sizes_of_its_result() -> None:
    graph = filled()
    size = [str(size) for size in graph.nodes[0].output.type.shape]
    rewritten = rewrite(graph, {"constant_of_shape": lookup("constant_of_shape").decompose})
    assert [node.op for node in rewritten.nodes] == ["expand", "transpose"]
    assert [str(size) for size in rewritten.nodes[0].output.type.shape] == size
    assert not rewritten.guards


def test_equal_nodes_that_invented_sizes_stay_apart() -> None:
    graph = optimize(filled(2))
    bound = {str(size) for node in graph.nodes if node.op == "expand" for size in node.output.type.shape}
    wanted = {str(size) for value in graph.outputs for size in value.type.shape}
    assert wanted <= bound
    for array in run(graph, [np.array([2, 5])]):
        np.testing.assert_array_equal(array, np.full((5, 2), 3, np.float32))
