"""Control flow from ONNX: If, Loop and Scan under changing sizes, with captures, no rounds, and constant conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.reference.interpreter import run
from compiler.errors import DtypeError, ModelError
from compiler.frontends.onnx import load
from compiler.ir import Graph

INT64, BOOL, FLOAT = TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT


def info(name: str, shape: Sequence[int | str] | None, elem: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, elem, shape)


def body(nodes: Any, inputs: Any, outputs: Sequence[str], initializers: Any = ()) -> Any:
    return helper.make_graph(
        nodes,
        "body",
        inputs,
        [info(name, None, BOOL if name.startswith("go") else FLOAT) for name in outputs],
        initializers,
    )


def model(nodes: Any, inputs: Any, outputs: Sequence[str], initializers: Any = ()) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, [info(name, None) for name in outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check(proto: Any, *arrays: np.ndarray) -> Graph:
    """Run on the graph and on ONNX Runtime (the onnx package's evaluator stacks rows of no axes wrongly)."""
    graph = load(proto)
    found = run(graph, arrays)
    names = [value.name for value in proto.graph.input]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(zip(names, arrays, strict=True)))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype and a.shape == b.shape
    return graph


def branches() -> dict[str, Any]:
    """Captures x in one branch, x and a weight in the other."""
    return {
        "then_branch": body([helper.make_node("Neg", ["x"], ["t"])], [], ["t"]),
        "else_branch": body([helper.make_node("Concat", ["x", "w"], ["e"], axis=0)], [], ["e"]),
    }


WEIGHT = numpy_helper.from_array(np.float32([[9, 8]]), "w")


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("condition", [True, False])
def test_if(rows: int, condition: bool) -> None:
    node = helper.make_node("If", ["c"], ["y"], **branches())
    proto = model([node], [info("c", [], BOOL), info("x", ["n", 2])], ["y"], [WEIGHT])
    graph = check(proto, np.array(condition), np.ones((rows, 2), np.float32))
    (found,) = [node for node in graph.nodes if node.op == "if"]
    assert [value.name for value in found.inputs] == ["c", "x"]
    assert str(graph.outputs[0].type.shape[1]) == "2"


def test_if_of_a_constant_is_inlined() -> None:
    node = helper.make_node("If", ["c"], ["y"], **branches())
    proto = model([node], [info("x", ["n", 2])], ["y"], [WEIGHT, numpy_helper.from_array(np.array(False), "c")])
    graph = check(proto, np.ones((2, 2), np.float32))
    assert [node.op for node in graph.nodes] == ["concat"]


def test_if_on_a_size_is_decided_while_importing() -> None:
    nodes = [
        helper.make_node("Size", ["x"], ["count"]),
        helper.make_node("Greater", ["count", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], **branches()),
    ]
    proto = model(nodes, [info("x", [3, 2])], ["y"], [WEIGHT, numpy_helper.from_array(np.array(0), "zero")])
    graph = check(proto, np.ones((3, 2), np.float32))
    assert graph.nodes[-1].op == "neg"


def test_branches_of_different_types_are_refused() -> None:
    other = body([helper.make_node("Cast", ["x"], ["e"], to=INT64)], [], ["e"])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches()["then_branch"], else_branch=other)
    with pytest.raises(DtypeError, match=r"float32.* on one path and int64"):
        load(model([node], [info("c", [], BOOL), info("x", [2])], ["y"]))


def loop_body(step: Any, carried: str = "s") -> Any:
    """One carried value, a condition given on, the new value as a row."""
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), step, helper.make_node("Identity", ["n"], ["row"])]
    return body(nodes, [info("i", [], INT64), info("go", [], BOOL), info(carried, None)], ["go_on", "n", "row"])


@pytest.mark.parametrize("rounds", [0, 1, 5])
@pytest.mark.parametrize("size", [0, 1, 4])
def test_loop_keeps_sizes_it_keeps(rounds: int, size: int) -> None:
    step = helper.make_node("Add", ["s", "x"], ["n"])
    node = helper.make_node("Loop", ["most", "", "x"], ["y", "rows"], body=loop_body(step))
    proto = model([node], [info("most", [], INT64), info("x", ["n"])], ["y", "rows"])
    graph = load(proto)
    assert str(graph.outputs[0].type.shape) == "(n,)" and str(graph.outputs[1].type.shape[1]) == "n"
    y, rows = run(graph, [np.array(rounds), np.ones(size, np.float32)])
    np.testing.assert_array_equal(y, np.full(size, 1 + rounds, np.float32))
    assert rows.dtype == np.float32 and len(rows) == rounds
    if rounds:
        np.testing.assert_array_equal(rows[:, :1], np.arange(2, 2 + rounds, dtype=np.float32)[:, None][:, :size])


def test_loop_with_a_growing_value() -> None:
    step = helper.make_node("Concat", ["s", "x"], ["n"], axis=0)
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), step]
    inner = body(nodes, [info("i", [], INT64), info("go", [], BOOL), info("s", None)], ["go_on", "n"])
    node = helper.make_node("Loop", ["most", "", "x"], ["y"], body=inner)
    proto = model([node], [info("most", [], INT64), info("x", ["n", 3])], ["y"])
    graph = load(proto)
    grown, kept = graph.outputs[0].type.shape
    assert kept == 3 and str(grown) != "n"
    for rounds, size in ((0, 2), (3, 2), (2, 0)):
        assert run(graph, [np.array(rounds), np.ones((size, 3), np.float32)])[0].shape == ((1 + rounds) * size, 3)


def test_loop_stops_by_its_condition() -> None:
    nodes = [
        helper.make_node("Add", ["s", "one"], ["n"]),
        helper.make_node("Less", ["n", "limit"], ["go_on"]),
        helper.make_node("Mul", ["n", "n"], ["row"]),
    ]
    one = numpy_helper.from_array(np.float32(1), "one")
    inner = body(nodes, [info("i", [], INT64), info("go", [], BOOL), info("s", [])], ["go_on", "n", "row"], [one])
    node = helper.make_node("Loop", ["", "go", "x"], ["y", "rows"], body=inner)
    inputs = [info("go", [], BOOL), info("x", []), info("limit", [])]
    proto = model([node], inputs, ["y", "rows"])
    check(proto, np.array(True), np.array(0, np.float32), np.array(4.5, np.float32))
    y, rows = run(load(proto), [np.array(False), np.array(2, np.float32), np.array(9, np.float32)])
    assert y == 2 and rows.shape == (0,)


def test_known_number_of_rounds_is_a_size() -> None:
    step = helper.make_node("Neg", ["s"], ["n"])
    node = helper.make_node("Loop", ["most", "", "x"], ["y", "rows"], body=loop_body(step))
    proto = model([node], [info("x", ["n", 2])], ["rows"], [numpy_helper.from_array(np.array(3), "most")])
    assert str(load(proto).outputs[0].type) == "float32[3, n, 2]"
    check(proto, np.ones((2, 2), np.float32))


def test_nested_bodies_capture_through_each_other() -> None:
    inner_if = helper.make_node(
        "If",
        ["go"],
        ["n"],
        then_branch=body([helper.make_node("Add", ["s", "w"], ["t"])], [], ["t"]),
        else_branch=body([helper.make_node("Sub", ["s", "x"], ["e"])], [], ["e"]),
    )
    node = helper.make_node("Loop", ["most", "", "x"], ["y", "rows"], body=loop_body(inner_if))
    check(model([node], [info("most", [], INT64), info("x", ["n", 2])], ["y", "rows"], [WEIGHT]), np.array(2),
          np.ones((3, 2), np.float32))  # fmt: skip


def test_a_loop_whose_body_does_not_fit() -> None:
    step = helper.make_node("Neg", ["s"], ["n"])
    node = helper.make_node("Loop", ["most", "", "x", "x"], ["y", "z", "rows"], body=loop_body(step))
    with pytest.raises(ModelError, match="2 values"):
        load(model([node], [info("most", [], INT64), info("x", [2])], ["y"]))


@pytest.mark.parametrize("length", [0, 1, 4])
@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(length: int, backward: int, axis: int) -> None:
    nodes = [helper.make_node("Add", ["state", "slice"], ["n"]), helper.make_node("Mul", ["n", "scale"], ["row"])]
    inner = body(nodes, [info("state", ["m"]), info("slice", ["m"])], ["n", "row"])
    node = helper.make_node("Scan", ["s", "x"], ["y", "rows"], body=inner, num_scan_inputs=1,
                            scan_input_axes=[axis], scan_input_directions=[backward],
                            scan_output_axes=[-1], scan_output_directions=[backward])  # fmt: skip
    shape = ["t", "m"] if axis == 0 else ["m", "t"]
    proto = model([node], [info("s", ["m"]), info("x", shape), info("scale", [])], ["y", "rows"])
    graph = load(proto)
    assert str(graph.outputs[1].type) == "float32[m, t]"
    x = np.arange(length * 3, dtype=np.float32).reshape(length, 3)
    y, rows = run(graph, [np.ones(3, np.float32), x if axis == 0 else x.T, np.array(2, np.float32)])
    steps = 1 + np.cumsum(x[::-1] if backward else x, axis=0)
    np.testing.assert_array_equal(y, 1 + x.sum(axis=0))
    np.testing.assert_array_equal(rows, 2 * (steps[::-1] if backward else steps).T)
