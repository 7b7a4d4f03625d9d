"""Resize of symbolic sizes: whole-number nearest neighbours repeat; other positions are computed."""

from __future__ import annotations

import numpy as np
import pytest

from backends.reference.interpreter import run
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.ir import Graph
from compiler.op import lookup
from compiler.passes.decompose import decompose
from compiler.types import TensorType

HEIGHT, WIDTH = dims.symbol("height"), dims.symbol("width")


def upscaled(mode: str, rounding: str, coordinates: str) -> Graph:
    """An image [1, 2, height, width] twice as high and three times as wide, by sizes computed from its shape."""
    b = Builder()
    x = b.input("x", TensorType(dtypes.float32, (1, 2, HEIGHT, WIDTH)))
    sizes = b.emit("mul", b.emit("shape_of", x), b.constant(np.array([1, 1, 2, 3])))
    attrs = {"mode": mode, "nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
    return decompose(b.finish([b.emit("resize", x, None, None, sizes, **attrs)]))


@pytest.mark.parametrize(
    ("rounding", "coordinates"),
    [("floor", "asymmetric"), ("round_prefer_floor", "half_pixel"), ("round_prefer_ceil", "half_pixel")],
)
def test_whole_number_nearest_repeats(rounding: str, coordinates: str) -> None:
    graph = upscaled("nearest", rounding, coordinates)
    assert graph.outputs[0].type == TensorType(dtypes.float32, (1, 2, HEIGHT * 2, WIDTH * 3))
    assert all(lookup(node.op).lower is not None for node in graph.nodes)
    for shape in ((1, 2, 3, 5), (1, 2, 1, 1), (1, 2, 0, 4)):
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(run(graph, [x])[0], x.repeat(2, axis=2).repeat(3, axis=3))


@pytest.mark.parametrize(("mode", "rounding"), [("linear", "floor"), ("nearest", "ceil")])
def test_positions_that_depend_on_the_sizes_are_computed(mode: str, rounding: str) -> None:
    graph = upscaled(mode, rounding, "half_pixel")
    assert all(lookup(node.op).lower is not None for node in graph.nodes)
    attrs = {**lookup("resize").attrs, "mode": mode, "nearest_mode": rounding}
    for shape in ((1, 2, 1, 3), (1, 2, 5, 4)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        sizes = np.array([1, 2, shape[2] * 2, shape[3] * 3])
        expected = lookup("resize").reference(x, None, None, sizes, **attrs)
        np.testing.assert_allclose(run(graph, [x])[0], expected, rtol=1e-6, atol=1e-6)
