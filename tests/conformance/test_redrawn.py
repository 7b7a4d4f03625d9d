"""The ONNX node cases with other inputs: drawn anew from the values each case has, and lying anyhow in memory.

Nobody wrote down what these give, so NativeBackend is held to ReferenceBackend, within the case's own tolerance."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from runtime.onnx_backend import NativeBackend, ReferenceBackend
from tests.conformance.test_onnx_backend import NATIVE_FAILURES

RANDOM_OPERATORS = {"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"}


@functools.cache
def node_cases() -> dict[str, TestCase]:
    """The suite's node cases by name, but for those that draw random numbers or fail as they are."""
    return {
        case.name: case
        for case in load_model_tests(kind="node")
        if case.name not in NATIVE_FAILURES and not {node.op_type for node in case.model.graph.node} & RANDOM_OPERATORS
    }


def redrawn(value: Any, rng: np.random.Generator) -> Any:
    """As many values of a tensor, each one of those it had; in the memory of a transpose, a slice, or reversed."""
    if isinstance(value, onnx.TensorProto) or not isinstance(value, np.ndarray) or value.size == 0:
        return value
    shaping = value.ndim == 1 and value.dtype == np.int64  # axes, sizes of parts: only their order is free
    drawn = rng.permutation(value) if shaping else rng.choice(value.reshape(-1), value.shape)
    layout = rng.integers(4)
    if layout == 0 or value.ndim == 0:
        return drawn
    if layout == 1:
        return np.asfortranarray(drawn)
    if layout == 2:
        return np.repeat(drawn, 2, axis=-1)[..., ::2]
    return np.ascontiguousarray(drawn[::-1])[::-1]


def outcome(backend: type[NativeBackend], model: onnx.ModelProto, inputs: Sequence[Any]) -> Any:
    """The outputs, or the error where the drawn values mean nothing to the model."""
    try:
        return backend.prepare(model).run(list(inputs))
    except Exception as error:  # NumPy and the onnx package's operators raise what they like
        return error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", node_cases())
def test_native_equals_the_reference(name: str) -> None:
    case = node_cases()[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    inputs = [redrawn(value, rng) for value in case.data_sets[0][0]]
    expected = outcome(ReferenceBackend, case.model, inputs)
    found = outcome(NativeBackend, case.model, inputs)
    if isinstance(expected, Exception):
        assert isinstance(found, Exception), f"the reference raises {expected!r}, native code answers"
        return
    if isinstance(found, Exception):
        raise found
    for got, want in zip(found, expected, strict=True):
        assert_alike(got, want, case.rtol, case.atol)


def assert_alike(got: Any, want: Any, rtol: float, atol: float) -> None:
    """Tensors within the tolerances (of the largest value: what was drawn may cancel), everything else equal."""
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_alike(one, other, rtol, atol)
    elif not isinstance(want, np.ndarray) or want.dtype.kind in "OUS":
        np.testing.assert_array_equal(got, want)
    else:
        assert got.dtype == want.dtype and got.shape == want.shape
        wide = np.complex128 if want.dtype.kind == "c" else np.float64
        scale = np.abs(want.astype(wide)).max(initial=0, where=np.isfinite(want.astype(wide)))
        np.testing.assert_allclose(got.astype(wide), want.astype(wide), rtol=rtol, atol=atol + rtol * float(scale))
