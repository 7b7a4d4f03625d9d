"""TopK in whole ONNX models: where k may come from, what reads its results, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import runtime
from compiler.errors import SansuanError, ShapeError
from runtime.program import Program

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes: Sequence[Any], inputs: dict[str, tuple[int, Any]], outputs: dict[str, int], **constants: Any) -> Any:
    """An ONNX model of these nodes."""
    formals = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", formals, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def sorts(k: Sequence[Any], **attrs: Any) -> list[Any]:
    """Nodes that make "k", then TopK of x."""
    return [*k, helper.make_node("TopK", ["x", "k"], ["values", "places"], **attrs)]


def compiled(nodes: Sequence[Any], inputs: dict[str, tuple[int, Any]], **constants: Any) -> Program:
    proto: ModelProto = model(nodes, inputs, {"values": FLOAT, "places": INT64}, **constants)
    return runtime.compile(proto, threads=1)


def check(program: Program, x: np.ndarray, k: int, *rest: np.ndarray, axis: int = -1) -> None:
    values, places = program(x, *rest)
    expected = np.argsort(-x, axis, kind="stable").take(range(k), axis)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, axis))


def test_k_of_sizes(rng: np.random.Generator) -> None:
    nodes = sorts(
        [helper.make_node("Shape", ["x"], ["n"], start=1, end=2), helper.make_node("Min", ["n", "most"], ["k"])]
    )
    program = compiled(nodes, {"x": (FLOAT, ["b", "n"])}, most=np.array([5]))
    for shape in ((2, 9), (3, 5), (1, 2), (4, 1), (2, 0), (0, 7)):
        check(program, rng.standard_normal(shape).astype(np.float32), min(5, shape[1]))
    assert "on the host" not in program.explain()


def test_k_chosen_by_a_size(rng: np.random.Generator) -> None:
    nodes = sorts(
        [
            helper.make_node("Shape", ["x"], ["n"], start=1, end=2),
            helper.make_node("Greater", ["n", "few"], ["long"]),
            helper.make_node("Where", ["long", "few", "one"], ["k"]),
        ]
    )
    program = compiled(nodes, {"x": (FLOAT, ["b", "n"])}, few=np.array([4]), one=np.array([1]))
    for length in (3, 4, 5, 50):
        check(program, rng.standard_normal((2, length)).astype(np.float32), 4 if length > 4 else 1)
    assert "on the host" not in program.explain()


def test_k_decided_while_planning(rng: np.random.Generator) -> None:
    nodes = sorts(
        [
            helper.make_node("Shape", ["x"], ["n"], start=1, end=2),
            helper.make_node("ConstantOfShape", ["n"], ["ones"], value=numpy_helper.from_array(np.array([1]))),
            helper.make_node("NonZero", ["ones"], ["positions"]),
            helper.make_node("Shape", ["positions"], ["k"], start=1, end=2),
        ]
    )
    program = compiled(nodes, {"x": (FLOAT, ["b", "n"])})
    for length in (3, 4, 50, 1):
        check(program, rng.standard_normal((2, length)).astype(np.float32), length)
    assert "on the host" not in program.explain()


def test_k_as_an_input(rng: np.random.Generator) -> None:
    program = compiled(sorts([], axis=0), {"x": (FLOAT, ["n", 3]), "k": (INT64, [1])})
    for k in (1, 7, 3, 0):
        check(program, rng.standard_normal((7, 3)).astype(np.float32), k, np.array([k]), axis=0)
    assert "on the host" not in program.explain()


def test_k_computed_by_the_model(rng: np.random.Generator) -> None:
    nodes = sorts([helper.make_node("ReduceMax", ["m"], ["k"], keepdims=1)])
    program = compiled(nodes, {"x": (FLOAT, ["n"]), "m": (INT64, ["c"])})
    for k in (1, 6, 2):
        check(program, rng.standard_normal(6).astype(np.float32), k, np.arange(k + 1))
    (row,) = [row for row in program.ledger() if row.op == "TopK"]
    assert row.kernel.startswith("result_shape + sort_")  # only the size is found on the host


def test_more_than_there_are() -> None:
    with pytest.raises(SansuanError, match="k is 6, but axis 1"):
        compiled(sorts([]), {"x": (FLOAT, ["n", 5])}, k=np.array([6]))
    program = compiled(sorts([]), {"x": (FLOAT, ["b", "n"])}, k=np.array([3]))
    with pytest.raises(ShapeError, match="k is 3, but the axis has only 2"):
        program(np.zeros((4, 2), np.float32))


def test_of_results_that_are_not_dense(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("TopK", ["t", "k"], ["values", "p"], axis=1),
        helper.make_node("Transpose", ["p"], ["places"], perm=[1, 2, 0]),
    ]
    program = compiled(nodes, {"x": (FLOAT, ["a", "b", "c"])}, k=np.array([2]))
    x = rng.standard_normal((6, 3, 5)).astype(np.float32)
    values, places = program(x)
    expected = np.argsort(-x, 0, kind="stable")[:2]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, 0).transpose(2, 0, 1))
    assert "on the host" not in program.explain()
