"""Padding that depends on sizes which only a call tells: SAME windows and mirrored edges."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import runtime

SHAPES = ((7, 8), (9, 12), (2, 5), (16, 3))


def model(node: onnx.NodeProto, named: bool, shape: tuple[int, int], **constants: np.ndarray) -> onnx.ModelProto:
    """A model of one node over x [2, 6, height, width], whose last sizes are named or numbers."""
    sizes = ["n", 6, "h", "w"] if named else [2, 6, *shape]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    kinds = (TensorProto.FLOAT, TensorProto.INT64)
    results = [helper.make_tensor_value_info(n, kind, [None] * 4) for n, kind in zip(node.output, kinds, strict=False)]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "padding", [x], results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def check(node: onnx.NodeProto, **constants: np.ndarray) -> None:
    program = runtime.compile(model(node, True, (0, 0), **constants), cache=False)
    for shape in SHAPES:
        x = np.random.default_rng(1).standard_normal((2, 6, *shape)).astype(np.float32)
        expected = runtime.compile(model(node, False, shape, **constants), backend="reference")(x)
        for found, wanted in zip(program(x), expected, strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)
    assert not [row for row in program.ledger() if row.unit == "host"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 3), (5, 2)])
@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool"])
def test_same_padding_of_named_sizes(operator: str, kernel: int, stride: int, mode: str) -> None:
    attributes = {"auto_pad": mode, "strides": [stride] * 2, "kernel_shape": [kernel] * 2}
    if operator != "Conv":
        check(helper.make_node(operator, ["x"], ["y"], **attributes))
        return
    weight = np.random.default_rng(0).standard_normal((4, 6, kernel, kernel)).astype(np.float32)
    check(helper.make_node("Conv", ["x", "weight"], ["y"], **attributes), weight=weight)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_same_padding_that_counts(mode: str) -> None:
    attributes = {"auto_pad": mode, "strides": [2, 3], "kernel_shape": [3, 2], "count_include_pad": 1}
    check(helper.make_node("AveragePool", ["x"], ["y"], **attributes))


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_places_of_maxima_under_same_padding(mode: str) -> None:
    attributes = {"auto_pad": mode, "strides": [2, 1], "kernel_shape": [2, 3]}
    check(helper.make_node("MaxPool", ["x"], ["y", "places"], **attributes))


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_padding_beyond_the_edge_of_named_sizes(mode: str) -> None:
    pads = np.array([0, 0, 1, -1, 0, 0, 1, 2])
    check(helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode), pads=pads)
