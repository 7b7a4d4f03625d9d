"""Every op's samples through the whole pipeline: the lowered program, call by call in NumPy, against the reference."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

import compiler.ops  # noqa: F401 - fills the registry
from backends.native.executable import Executable
from backends.native.target import host
from backends.reference.emulator import EmulatedExecutable
from compiler import dtypes
from compiler.builder import Builder
from compiler.ir import Graph
from compiler.kernels import HostCall, computes
from compiler.op import REGISTRY, Op, Sample
from compiler.pipeline import lower_graph
from compiler.types import TensorType, of_array
from runtime.options import Options


def cases() -> list[object]:
    return list(_cases())


def _cases() -> Iterator[object]:
    for name, entry in sorted(REGISTRY.items()):
        if entry.samples is None:
            continue
        for number, sample in enumerate(entry.samples(np.random.default_rng(0))):
            yield pytest.param(entry, sample, id=f"{name}-{sample.name or number}")


def graph_of(entry: Op, sample: Sample) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one node; operands whose contents decide shapes are constants, the rest inputs."""
    builder = Builder()
    operands, arrays = [], []
    for number, array in enumerate(sample.inputs):
        if array is None:
            operands.append(None)
        elif number in entry.value_operands:
            operands.append(builder.constant(array, f"c{number}"))
        else:
            operands.append(builder.input(f"x{number}", of_array(array)))
            arrays.append(array)
    results = reference(entry, sample)
    outputs = builder.emit_many(entry.name, operands, sample.attrs, [f"y{i}" for i in range(len(results))])
    return builder.finish(outputs), arrays


def reference(entry: Op, sample: Sample) -> tuple[np.ndarray, ...]:
    results = entry.reference(*sample.inputs, **{**entry.attrs, **sample.attrs})
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize(("entry", "sample"), cases())
def test_sample_lowers_to_the_reference(entry: Op, sample: Sample) -> None:
    if not all(isinstance(a, np.ndarray) or a is None for a in sample.inputs):
        pytest.skip("operands that are no tensors only run on the host")
    graph, arrays = graph_of(entry, sample)
    lowered = lower_graph(graph)
    types = [dtypes.from_numpy(a.dtype) for a in (*arrays, *map(np.asarray, reference(entry, sample)))]
    if not entry.is_host and all(map(computes, types)):
        assert not any(isinstance(call, HostCall) for call in lowered.calls)
    results = EmulatedExecutable(lowered, "truth").run(arrays)
    for found, expected in zip(results, reference(entry, sample), strict=True):
        expected = np.asarray(expected)
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if dtypes.from_numpy(found.dtype).is_float:
            assert_close(
                found.astype(np.float64), expected.astype(np.float64), sample.tolerance + 2, epsilon(found.dtype)
            )
        else:
            assert np.array_equal(found, expected)


def epsilon(dtype: np.dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def assert_close(found: np.ndarray, expected: np.ndarray, units: float, epsilon: float) -> None:
    """Within `units` epsilons of the largest finite result; infinities and NaNs in the same places."""
    finite = np.isfinite(expected)
    scale = np.abs(expected).max(initial=1e-30, where=finite)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    with np.errstate(invalid="ignore"):
        assert np.all((np.abs(found - expected) <= units * epsilon * scale) | (found == expected) | np.isnan(expected))


def test_a_weight_repeated_over_a_named_size_is_not_packed_ahead() -> None:
    builder = Builder()
    n = builder.claim_symbol("n")
    x = builder.input("x", TensorType(dtypes.float32, (2, n, 2)))  # its batch is no outer part of its rows
    weight = builder.constant(np.array([[1, 2], [3, 4]], np.float32), "w")
    product = builder.emit("matmul", builder.emit("transpose", x, perm=(1, 0, 2)), weight)
    graph = builder.finish([product])
    array = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    expected = array.transpose(1, 0, 2) @ np.array([[1, 2], [3, 4]], np.float32)
    native = Executable(lower_graph(graph), host(), Options(threads=1, cache_dir=None))
    for executable in (EmulatedExecutable(lower_graph(graph), "truth"), native):
        assert np.array_equal(executable.run([array])[0], expected)
