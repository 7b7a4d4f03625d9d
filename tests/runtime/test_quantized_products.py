"""Products of quantized tensors on native kernels: the exact integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from runtime.onnx_backend import NativeBackend, ReferenceBackend


def run(operator: str, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
    """The native result, which is the reference's."""
    node = helper.make_node(operator, [f"x{i}" for i in range(len(arrays))], ["y"], **attrs)
    found = NativeBackend.run_node(node, list(arrays))[0]
    np.testing.assert_array_equal(found, ReferenceBackend.run_node(node, list(arrays))[0])
    return found


def draw(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


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


@pytest.mark.parametrize("left", [np.int8, np.uint8])
@pytest.mark.parametrize("right", [np.int8, np.uint8])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (1, 130, 200), (70, 259, 50), (9, 1024, 65)])
def test_every_mixture_of_bytes(left: type, right: type, m: int, k: int, n: int, rng: np.random.Generator) -> None:
    a, b = draw(rng, left, m, k), draw(rng, right, k, n)
    a[0], b[:, 0] = np.iinfo(left).max, np.iinfo(right).min  # what saturating instructions get wrong
    zeros = (draw(rng, left, m), draw(rng, right, n))
    expected = (a - zeros[0][:, None].astype(np.int32)) @ (b - zeros[1].astype(np.int32))
    np.testing.assert_array_equal(run("MatMulInteger", a, b, *zeros), expected)
    np.testing.assert_array_equal(run("MatMulInteger", a, b), a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize(("group", "channels"), [(1, 5), (2, 6), (4, 4)])
@pytest.mark.parametrize("left", [np.int8, np.uint8])
def test_padding_is_the_zero_point(group: int, channels: int, left: type, rng: np.random.Generator) -> None:
    x, w = draw(rng, left, 2, channels, 7, 6), draw(rng, np.int8, 2 * channels, channels // group, 3, 3)
    zero, zeros = np.asarray(draw(rng, left)), draw(rng, np.int8, 2 * channels)
    padded = np.pad(x - zero.astype(np.int32), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    weights = w - zeros.astype(np.int32)[:, None, None, None]
    parts = zip(np.split(patches, group, 1), np.split(weights, group), strict=True)
    expected = np.concatenate([np.einsum("nchwij,ocij->nohw", p, q) for p, q in parts], 1)
    found = run("ConvInteger", x, w, zero, zeros, pads=[1, 1, 1, 1], group=group)
    np.testing.assert_array_equal(found, expected)
