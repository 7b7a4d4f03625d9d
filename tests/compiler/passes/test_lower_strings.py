"""Strings are Python objects, whose references a kernel's copy of bytes would not count: no call of a kernel moves
them, and what a program gives out holds references of its own."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.native.executable import Executable
from backends.native.target import host
from compiler import dtypes
from compiler.frontends.onnx import load
from compiler.kernels import HostCall
from compiler.pipeline import lower_graph
from tests.compiler.test_random_graphs import Settings

WORDS = np.array([f"word {i} {'x' * i}" for i in range(6)], object)
INDICES = np.array([5, 0, -1])
MOVES: dict[str, tuple[list[Any], np.ndarray]] = {
    "nothing": ([], WORDS),
    "Identity": ([helper.make_node("Identity", ["x"], ["y"])], WORDS),
    "Reshape": ([helper.make_node("Reshape", ["x", "shape"], ["y"])], WORDS.reshape(2, 3)),
    "Gather": ([helper.make_node("Gather", ["x", "indices"], ["y"])], WORDS[INDICES]),
    "Concat": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], np.concatenate([WORDS, WORDS])),
    "transposed and flat": (
        [
            helper.make_node("Reshape", ["x", "shape"], ["square"]),
            helper.make_node("Transpose", ["square"], ["turned"]),
            helper.make_node("Flatten", ["turned"], ["y"], axis=0),
        ],
        WORDS.reshape(2, 3).T.reshape(1, 6),
    ),
}


def lowered(nodes: list[Any], constant: bool) -> Any:
    words = helper.make_tensor("x", TensorProto.STRING, [6], [word.encode() for word in WORDS])
    result = helper.make_tensor_value_info("y" if nodes else "x", TensorProto.STRING, None)
    given = helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])
    constants = [
        numpy_helper.from_array(np.array([2, 3]), "shape"),
        numpy_helper.from_array(INDICES, "indices"),
        *([words] if constant else []),
    ]
    graph = helper.make_graph(nodes, "g", [] if constant else [given], [result], constants)
    return lower_graph(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)))


@pytest.mark.parametrize("constant", [False, True], ids=["input", "constant"])
@pytest.mark.parametrize("name", MOVES)
def test_results_of_strings_hold_their_references(name: str, constant: bool) -> None:
    nodes, expected = MOVES[name]
    program = lowered(nodes, constant)
    for call in program.calls:
        assert isinstance(call, HostCall) or dtypes.string not in [view.dtype for view in (*call.reads, *call.writes)]
    executable = Executable(program, host(), Settings(1))
    arrays = [] if constant else [WORDS.copy()]
    first, second = executable.run(arrays), executable.run(arrays)
    np.testing.assert_array_equal(first[0], expected)
    word = first[0].reshape(-1)[0]
    shared = sys.getrefcount(word)
    del second
    assert sys.getrefcount(word) == shared - np.count_nonzero([item is word for item in first[0].flat])
