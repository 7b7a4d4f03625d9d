"""Nodes of older opsets: what their attributes meant, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from backends.reference.interpreter import run
from compiler.frontends.onnx import load

X = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(4).standard_normal((1, 4, 3, 2)).astype(np.float32)


def softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    weights = np.exp(x - x.max(axis=axes, keepdims=True))
    return weights / weights.sum(axis=axes, keepdims=True)


def grouped(x: np.ndarray, groups: int) -> np.ndarray:
    parts = x.astype(np.float64).reshape(len(x), groups, -1)
    normal = (parts - parts.mean(axis=2, keepdims=True)) / np.sqrt(parts.var(axis=2, keepdims=True) + 1e-5)
    return normal.reshape(x.shape)


Case = tuple[str, int, dict[str, Any], tuple[np.ndarray, ...], Callable[..., Any]]
SMALL, ROW = np.array([1.0, 2.0, 3.0], np.float32), np.array([10, 20, 30, 40], np.float32)
CORNERS = np.stack(np.meshgrid([-1, 1], [-1, 0, 1]), axis=-1)[None].astype(np.float32)  # of IMAGE: x, y
CASES: dict[str, Case] = {
    "squeeze": ("Squeeze", 11, {"axes": [0, 2]}, (X[:1, :, :1],), lambda x: x[0, :, 0]),
    "unsqueeze": ("Unsqueeze", 11, {"axes": [0, -1]}, (X,), lambda x: x[None, ..., None]),
    "reduce sum": ("ReduceSum", 11, {"axes": [1], "keepdims": 0}, (X,), lambda x: x.sum(axis=1)),
    "reduce max": ("ReduceMax", 13, {"axes": [-1]}, (X,), lambda x: x.max(axis=-1, keepdims=True)),
    "reduce mean of all": ("ReduceMean", 13, {"keepdims": 0}, (X,), lambda x: x.mean()),
    "clip": ("Clip", 6, {"min": -0.5, "max": 0.25}, (X,), lambda x: np.clip(x, -0.5, 0.25)),
    "clip one side": ("Clip", 6, {"max": 0.25}, (X,), lambda x: np.minimum(x, 0.25)),
    "slice": ("Slice", 9, {"starts": [1, -3], "ends": [9, -1], "axes": [1, 2]}, (X,), lambda x: x[:, 1:, -3:-1]),
    "pad": ("Pad", 2, {"pads": [0, 1, 0, 0, 0, 2], "value": 7.0}, (X,),
            lambda x: np.pad(x, [(0, 0), (1, 0), (0, 2)], constant_values=7)),
    "softmax": ("Softmax", 11, {"axis": 1}, (X,), lambda x: softmax(x, (1, 2))),
    "softmax default": ("Softmax", 11, {}, (X,), lambda x: softmax(x, (1, 2))),
    "log softmax": ("LogSoftmax", 11, {"axis": 2}, (X,), lambda x: np.log(softmax(x, (2,)))),
    "hardmax": ("Hardmax", 11, {}, (X,),
                lambda x: (x == x.max(axis=(1, 2), keepdims=True)).astype(np.float32)),
    "split": ("Split", 11, {"axis": 2, "split": [1, 3]}, (X,), lambda x: (x[..., :1], x[..., 1:])),
    "top k": ("TopK", 1, {"k": 2}, (X,), lambda x: np.sort(x, axis=-1)[..., :-3:-1]),
    "add with axis": ("Add", 6, {"broadcast": 1, "axis": 1}, (X, SMALL), lambda x, y: x + y[:, None]),
    "mul at the end": ("Mul", 6, {"broadcast": 1}, (X, ROW), lambda x, y: x * y),
    "prelu": ("PRelu", 6, {}, (X, SMALL), lambda x, s: np.where(x < 0, x * s[:, None], x)),
    "gemm": ("Gemm", 6, {"broadcast": 1}, (X[0], X[1].T.copy(), SMALL), lambda a, b, c: a @ b + c),
    "dropout": ("Dropout", 10, {"ratio": 0.3}, (X,), lambda x: x),
    "batch norm": ("BatchNormalization", 9, {}, (X, SMALL, SMALL, SMALL, SMALL),
                   lambda x, s, *_: (x - s[:, None]) / np.sqrt(s + 1e-5)[:, None] * s[:, None] + s[:, None]),
    "group norm": ("GroupNormalization", 18, {"num_groups": 2}, (IMAGE, SMALL[:2], SMALL[1:]),
                   lambda x, s, b: grouped(x, 2) * s.repeat(2)[:, None, None] + b.repeat(2)[:, None, None]),
    "upsample": ("Upsample", 9, {}, (IMAGE, np.array([1, 1, 2, 3], np.float32)),
                 lambda x, _: x.repeat(2, axis=2).repeat(3, axis=3)),
    "upsample by attribute": ("Upsample", 7, {"scales": [1.0, 1.0, 2.0, 1.0]}, (IMAGE,), lambda x: x.repeat(2, axis=2)),
    "resize": ("Resize", 10, {}, (IMAGE, np.array([1, 1, 2, 1.5], np.float32)),
               lambda x, _: x.repeat(2, axis=2)[..., [0, 0, 1]]),
    "resize of opset 11": ("Resize", 11,
                           {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
                           (IMAGE, SMALL[:0], np.array([1, 1, 2, 1.5], np.float32)),
                           lambda x, *_: x.repeat(2, axis=2)[..., [0, 1, 1]]),
    "grid sample": ("GridSample", 16, {"mode": "bicubic", "align_corners": 1}, (IMAGE, CORNERS), lambda x, _: x),
    "roi align": ("RoiAlign", 10, {"sampling_ratio": 1}, (IMAGE, np.array([[0, 0, 2, 3]], np.float32), np.array([0])),
                  lambda x, *_: x[:, :, 1:, 1].mean(axis=2)[..., None, None]),
    "cast by name": ("Cast", 1, {"to": "INT32"}, (X * 10,), lambda x: x.astype(np.int32)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_older_node(name: str) -> None:
    op_type, version, attrs, arrays, expected = CASES[name]
    results = expected(*arrays)
    results = results if isinstance(results, tuple) else (results,)
    names = [f"x{i}" for i in range(len(arrays))]
    outputs = [f"y{i}" for i in range(max(len(results), 2 if op_type == "TopK" else 1))]
    node = helper.make_node(op_type, names, outputs, **attrs)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in zip(names, arrays, strict=True)]
    # Whatever follows the first operand is a parameter: a constant, as such models have it.
    constants = [
        helper.make_tensor(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape, a.tobytes(), raw=True)
        for n, a in zip(names[1:], arrays[1:], strict=True)
    ]
    wanted = [helper.make_value_info(n, helper.make_tensor_type_proto(0, None)) for n in outputs]
    graph = helper.make_graph([node], "old", info[:1], wanted, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    for value in model.graph.output:
        value.ClearField("type")
    found = run(load(model), arrays[:1])
    for array, result in zip(found, results, strict=False):
        assert array.shape == np.shape(result)
        np.testing.assert_allclose(array, result, rtol=2e-5, atol=1e-6)
