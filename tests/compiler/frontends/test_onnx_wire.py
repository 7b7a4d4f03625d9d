"""Splitting large payloads off the bytes of a model changes nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compiler.frontends.onnx_wire import split_payloads


def model_bytes() -> bytes:
    arrays = [np.zeros(5000, np.uint8), np.arange(3), np.full(1 << 15, 7, np.int16), np.zeros(4095, np.uint8)]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [],
                              [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)])  # fmt: skip
    return helper.make_model(graph, producer_name="a" * 300).SerializeToString()


def test_large_payloads_are_split_off() -> None:
    data = model_bytes()
    slim, payloads = split_payloads(memoryview(data))
    assert {i: len(payload) for i, payload in payloads.items()} == {0: 5000, 2: 1 << 16}
    rebuilt = onnx.ModelProto.FromString(slim)
    for i, payload in payloads.items():
        assert not rebuilt.graph.initializer[i].HasField("raw_data")
        rebuilt.graph.initializer[i].raw_data = bytes(payload)
    assert rebuilt == onnx.ModelProto.FromString(data)


@pytest.mark.parametrize("step", [1, 997])
def test_truncated_bytes_are_left_to_the_parser(step: int) -> None:
    data = model_bytes()
    for stop in range(0, len(data), 97 * step):
        slim, payloads = split_payloads(memoryview(data[:stop]))
        assert payloads == {} or len(slim) < stop
    junk = bytes(range(256)) * 40
    assert split_payloads(memoryview(junk)) == (junk, {})
