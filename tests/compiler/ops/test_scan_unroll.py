"""A Scan of a fixed number of steps becomes its body that often; a long one stays a Scan."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from backends.reference.interpreter import run
from compiler.frontends.onnx import load
from tests.compiler.ops.test_control import body, info, model


def scan(steps: int, axis: int, backward: int) -> helper.ModelProto:
    nodes = [helper.make_node("Add", ["state", "slice"], ["n"]), helper.make_node("Mul", ["n", "scale"], ["row"])]
    inner = body(nodes, [info("state", ["m"]), info("slice", ["m"])], ["n", "row"])
    node = helper.make_node("Scan", ["s", "x"], ["y", "rows"], body=inner, num_scan_inputs=1,
                            scan_input_axes=[axis], scan_input_directions=[backward],
                            scan_output_axes=[-1], scan_output_directions=[backward])  # fmt: skip
    shape = [steps, "m"] if axis == 0 else ["m", steps]
    return model([node], [info("s", ["m"]), info("x", shape), info("scale", [])], ["y", "rows"])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_few_steps(steps: int, backward: int, axis: int) -> None:
    graph = load(scan(steps, axis, backward))
    assert "scan" not in [node.op for node in graph.nodes]
    x = np.arange(steps * 3, dtype=np.float32).reshape(steps, 3)
    y, rows = run(graph, [np.ones(3, np.float32), x if axis == 0 else x.T, np.array(2, np.float32)])
    sums = 1 + np.cumsum(x[::-1] if backward else x, axis=0)
    np.testing.assert_array_equal(y, 1 + x.sum(axis=0))
    np.testing.assert_array_equal(rows, 2 * (sums[::-1] if backward else sums).T)


@pytest.mark.parametrize("steps", [0, 600])
def test_none_and_many_steps_stay_a_scan(steps: int) -> None:
    assert "scan" in [node.op for node in load(scan(steps, 0, 0)).nodes]
