"""Resize by scales and sizes computed in the graph: while planning where they come from sizes, else at a cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import runtime
from compiler.op import lookup

OPSET = 18


def model(nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], constants: dict[str, Any]) -> onnx.ModelProto:
    """A model of float inputs and one float output y."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    given = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "resize", info, result, given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def resized(x: np.ndarray, *by: np.ndarray | None, **attrs: Any) -> np.ndarray:
    """x by scales, or to sizes."""
    entry = lookup("resize")
    assert entry.reference is not None
    return entry.reference(x, None, *by, **{**entry.attrs, **attrs})


def expected(x: np.ndarray, scales: list[float], **attrs: Any) -> np.ndarray:
    return resized(x, np.array(scales, np.float32), **attrs)


def hosts(program: runtime.Program) -> list[str]:
    return [row.kernel for row in program.ledger() if row.unit == "host"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("channels", [3, 17])
def test_scales_that_sizes_decide(mode: str, channels: int) -> None:
    """floor(size * 1.5) / size, as exporters before opset 11 wrote it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "last"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["old"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["old", "factor"], ["long"]),
        helper.make_node("Floor", ["long"], ["new"]),
        helper.make_node("Div", ["new", "old"], ["plane"]),
        helper.make_node("Concat", ["ones", "plane"], ["scales"], axis=0),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode),
    ]
    ones = np.ones(2, np.float32)
    constants = {"first": [2], "last": [4], "factor": np.float32(1.5), "ones": ones}
    program = runtime.compile(model(nodes, {"x": ["n", channels, "h", "w"]}, constants))
    for n, h, w in ((1, 4, 7), (2, 9, 5)):
        x = np.random.default_rng(h).standard_normal((n, channels, h, w)).astype(np.float32)
        plane = [np.float32(np.floor(np.float32(size * 1.5))) / np.float32(size) for size in (h, w)]
        want = expected(x, [1, 1, *plane], mode=mode)
        (found,) = program(x)
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert hosts(program) == []


@pytest.mark.parametrize("antialias", [0, 1])
def test_sizes_that_float_arithmetic_decides(antialias: int) -> None:
    """floor(size * 0.7) as a size, as exporters write scale factors of named sizes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "second"], ["batch"]),
        helper.make_node("Slice", ["shape", "second", "last"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["old"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["old", "factor"], ["long"]),
        helper.make_node("Floor", ["long"], ["new"]),
        helper.make_node("Cast", ["new"], ["plane"], to=TensorProto.INT64),
        helper.make_node("Concat", ["batch", "plane"], ["whole"], axis=0),
        helper.make_node("Resize", ["x", "", "", "whole"], ["y"], mode="linear", antialias=antialias),
    ]
    constants = {"first": [0], "second": [2], "last": [4], "factor": np.float32(0.7)}
    program = runtime.compile(model(nodes, {"x": ["n", 9, "h", "w"]}, constants))
    for n, h, w in ((1, 4, 7), (2, 9, 5)):
        x = np.random.default_rng(h).standard_normal((n, 9, h, w)).astype(np.float32)
        to = [n, 9, *(int(np.floor(np.float32(size) * np.float32(0.7))) for size in (h, w))]
        want = resized(x, None, np.array(to), mode="linear", antialias=antialias)
        (found,) = program(x)
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert hosts(program) == []


def test_scales_that_come_from_data() -> None:
    """Only how large the result is takes a Host step; what is computed at that size is not."""
    nodes = [
        helper.make_node("ReduceMean", ["s", "axis"], ["mean"], keepdims=1),
        helper.make_node("Concat", ["ones", "mean", "half"], ["scales"], axis=0),
        helper.make_node("Resize", ["x", "", "scales"], ["grown"], mode="linear"),
        helper.make_node("Relu", ["grown"], ["y"]),
    ]
    constants = {"ones": np.ones(2, np.float32), "half": np.array([0.5], np.float32), "axis": [0]}
    program = runtime.compile(model(nodes, {"x": [1, 9, 6, "w"], "s": [2]}, constants))
    x = np.random.default_rng(0).standard_normal((1, 9, 6, 8)).astype(np.float32)
    for scales in ([1, 2], [2, 4]):
        (found,) = program(x, np.array(scales, np.float32))
        want = np.maximum(expected(x, [1, 1, sum(scales) / 2, 0.5], mode="linear"), 0)
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    assert not any("resize" in name for name in hosts(program))
