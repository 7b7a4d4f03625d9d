"""Products of quantized tensors on native kernels: the exact integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from runtime.onnx_backend import NativeBackend


def run(operator: str, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
    node = helper.make_node(operator, [f"x{i}" for i in range(len(arrays))], ["y"], **attrs)
    return NativeBackend.run_node(node, list(arrays))[0]


@pytest.mark.parametrize(("left", "right"), [((1, 67), (67, 5)), ((17, 33), (33, 64)), ((2, 3, 5, 7), (2, 3, 7, 4))])
def test_matmul_integer(left: tuple[int, ...], right: tuple[int, ...], rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, left).astype(np.uint8), rng.integers(-128, 128, right).astype(np.int8)
    rows = rng.integers(0, 256, left[-2]).astype(np.uint8)
    columns = rng.integers(-9, 9, right[-1]).astype(np.int8)
    expected = (a.astype(np.int32) - rows[:, None].astype(np.int32)) @ (b.astype(np.int32) - columns)
    np.testing.assert_array_equal(run("MatMulInteger", a, b, rows, columns), expected)


def test_conv_integer_with_a_zero_point_for_each_channel(rng: np.random.Generator) -> None:
    x, w = rng.integers(0, 256, (2, 4, 9)).astype(np.uint8), rng.integers(-128, 128, (3, 4, 2)).astype(np.int8)
    zeros = np.array([1, -2, 3], np.int8)
    centred, weights = x.astype(np.int32) - 12, w.astype(np.int32) - zeros[:, None, None]
    expected = sum(np.einsum("nct,oc->not", centred[:, :, k : k + 8], weights[:, :, k]) for k in range(2))
    np.testing.assert_array_equal(run("ConvInteger", x, w, np.array(12, np.uint8), zeros), expected)
