"""Ops whose result's size is data: keys against NumPy's own order, suppression against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import runtime
from compiler import dtypes
from compiler.op import lookup
from compiler.ops.sort_keys import stable_order, total_order

TYPES = (
    np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, bool,
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ml_dtypes.int4, ml_dtypes.uint4,
)  # fmt: skip
NONZERO, UNIQUE, COMPRESS = (lookup(name).reference for name in ("nonzero", "unique", "compress"))


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_keys_order_as_the_elements(rng: np.random.Generator, dtype: type) -> None:
    unsigned = np.dtype(dtype).name.startswith("u")
    x = (rng.uniform(-4, 4, 300) + 4 * unsigned).astype(dtype)
    if dtypes.from_numpy(x.dtype).is_float:
        x[::7] = np.nan
    wide = x.astype(np.float64)
    keys, nan = total_order(x), np.isnan(wide)
    np.testing.assert_array_equal(keys[:, None] == keys, (wide[:, None] == wide) | (nan[:, None] & nan))
    np.testing.assert_array_equal(stable_order(keys[:, None]), np.argsort(wide, kind="stable"))


@pytest.mark.parametrize("width", [0, 1, 2, 5])
@pytest.mark.parametrize("rows", [0, 1, 2, 70])
def test_rows_of_keys(rng: np.random.Generator, rows: int, width: int) -> None:
    for keys in (rng.integers(0, 3, (rows, width), np.uint64), rng.integers(0, 1 << 63, (rows, width), np.uint64)):
        expected = sorted(range(rows), key=lambda i: tuple(keys[i]))
        assert stable_order(keys).tolist() == expected


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (4, 0, 2)])
def test_nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    x = rng.integers(0, 2, shape)
    expected = np.stack(np.nonzero(x)) if shape else np.zeros((0, int(x)))
    np.testing.assert_array_equal(NONZERO(np.asarray(x)), expected)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_unique(rng: np.random.Generator, axis: int | None) -> None:
    x = rng.integers(-2, 2, (6, 5, 3)).astype(np.float32)
    x[:, 1] = x[:, 4]
    expected = np.unique(x, True, True, True, axis=axis)
    for found, wanted in zip(UNIQUE(x, axis=axis, sorted=1), expected, strict=True):
        np.testing.assert_array_equal(found, wanted.reshape(found.shape))
    values, places, inverse, counts = UNIQUE(x, axis=axis, sorted=0)
    assert (np.diff(places) > 0).all() and counts.sum() == len(inverse)
    flat = x.reshape(-1) if axis is None else x
    np.testing.assert_array_equal(np.take(values, inverse, axis or 0), flat)
    np.testing.assert_array_equal(np.take(flat, places, axis or 0), values)


def test_more_conditions_than_elements() -> None:
    with pytest.raises(ValueError, match="found 3 conditions for 2 elements"):
        COMPRESS(np.zeros((2, 4)), np.ones(3, bool), axis=0)


def _suppression(center: int) -> ModelProto:
    shapes = {"boxes": (2, "n", 4), "scores": (2, 3, "n"), "most": (1,), "overlap": (1,), "least": (1,)}
    node = helper.make_node("NonMaxSuppression", list(shapes), ["y"], center_point_box=center)
    kinds = {"most": TensorProto.INT64}
    formals = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape) for name, shape in shapes.items()
    ]
    result = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([node], "g", formals, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


@pytest.mark.parametrize("center", [0, 1])
def test_suppression_against_onnx_runtime(rng: np.random.Generator, center: int) -> None:
    model = _suppression(center)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    programs = [runtime.compile(model, backend=backend) for backend in ("native", "reference")]
    for boxes in (1, 2, 127, 128, 129, 500):
        for grid in (1, 0.01):  # coarse: many equal boxes, overlaps and scores
            places = np.round(rng.uniform(0, 4, (2, boxes, 4)) / grid) * grid
            scores = np.round(rng.uniform(0, 1, (2, 3, boxes)) / (grid / 10)) * (grid / 10)
            limits = np.array([rng.integers(1, 60)]), np.float32([rng.uniform()]), np.float32([rng.uniform(0, 0.5)])
            operands = (places.astype(np.float32), scores.astype(np.float32), *limits)
            expected = session.run(
                None, dict(zip(("boxes", "scores", "most", "overlap", "least"), operands, strict=True))
            )
            for program in programs:
                np.testing.assert_array_equal(program(*operands)[0], expected[0])


@pytest.mark.parametrize("names", [("boxes", "scores"), ("boxes", "scores", "most", "", "least")])
def test_suppression_with_constant_limits_and_without(rng: np.random.Generator, names: tuple[str, ...]) -> None:
    node = helper.make_node("NonMaxSuppression", names, ["y"])
    formals = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("boxes", (1, "n", 4)), ("scores", (1, 2, "n")))
    ]
    result = helper.make_tensor_value_info("y", TensorProto.INT64, ("count", 3))
    limits = {"most": np.array([4]), "least": np.float32([0.25])}
    weights = [numpy_helper.from_array(array, name) for name, array in limits.items() if name in names]
    graph = helper.make_graph([node], "g", formals, [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    session, program = onnxruntime.InferenceSession(model.SerializeToString()), runtime.compile(model)
    for count in (3, 40, 1, 0):
        feeds = rng.random((1, count, 4)).astype(np.float32), rng.random((1, 2, count)).astype(np.float32)
        expected = session.run(None, dict(zip(("boxes", "scores"), feeds, strict=True)))[0]
        np.testing.assert_array_equal(program(*feeds)[0], expected)
