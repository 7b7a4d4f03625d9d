"""Weighted gathers against NumPy's own chain: widths around the vectors, types, strides, chunks, bad places."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.kernel import STATUS_INDEX_OUT_OF_RANGE
from backends.native.target import Target
from backends.native.weighted_take import select
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.kernels import KernelCall, WeightedTakeSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, view_of

ACC = {"float64": np.float64}


def check(
    rows: np.ndarray, index: np.ndarray, weights: np.ndarray, fn: str, target: Target | None = None, threads: int = 1
) -> np.ndarray:
    """The kernel's result, which must have the bits of the emulated one."""
    types = (dtypes.from_numpy(a.dtype) for a in (rows, weights, index))
    spec = WeightedTakeSpec(fn, *types)
    write, memory = guarded((rows.shape[0], index.shape[2], rows.shape[2]), rows.dtype)
    assert run(select, spec, [rows, index, weights], [write], target=target, threads=threads) == 0
    expected = np.empty(write.shape, write.dtype)
    views = [view_of(a, f"b{i}") for i, a in enumerate((rows, index, weights, expected))]
    run_call(KernelCall(spec, tuple(views[:3]), tuple(views[3:])), [rows, index, weights], [expected], int, "emulate")
    assert_same(write, expected)
    assert_guards(memory)
    return write


def operands(rng: np.random.Generator, outer: int, width: int, dtype: str, taps: int = 3) -> tuple[np.ndarray, ...]:
    rows = rng.standard_normal((outer, 7, width)).astype(dtype)
    index = rng.integers(-7, 7, (taps, outer, 5))
    weights = rng.standard_normal(index.shape).astype(ACC.get(dtype, np.float32))
    return rows, index, np.where(rng.random(index.shape) < 0.3, 0, weights).astype(weights.dtype)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("fn", ["sum", "max"])
def test_widths(rng: np.random.Generator, fn: str, dtype: str, target: Target) -> None:
    if dtype == "float16" and target.vector == 16:
        pytest.skip("converts float16 by instructions that target is denied")
    for width in (1, 3, 15, 16, 17, 63, 64, 65, 130):
        check(*operands(rng, 2, width, dtype), fn, target)


def test_sums_by_hand() -> None:
    rows = np.array([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]], np.float32)
    index = np.array([[[0, 2]], [[-1, 1]]], np.int32)
    weights = np.array([[[2, 1]], [[0.5, -1]]], np.float32)
    assert check(rows, index, weights, "sum").tolist() == [[[52, 104], [90, 180]]]
    assert check(rows, index, weights, "max").tolist() == [[[50, 100], [100, 200]]]


def test_strides_and_chunks(rng: np.random.Generator) -> None:
    rows, index, weights = operands(rng, 3, 40, "float32")
    assert np.array_equal(check(rows, index, weights, "sum"), check(rows, index, weights, "sum", threads=5))
    wide = rng.standard_normal((2 * 7, 3, 50)).astype(np.float32).transpose(1, 0, 2)[:, ::2, 4:44]
    check(wide, index.astype(np.int32), weights, "sum")
    shared = (np.broadcast_to(a[:, :1], a.shape) for a in (index, weights))
    check(wide, *shared, "sum")
    many = rng.integers(0, 7, (2, 1, 40_000))
    check(rows[:1, :, :3], many, rng.standard_normal(many.shape).astype(np.float32), "sum", threads=7)


def test_what_weighs_nothing_is_not_read() -> None:
    rows = np.full((1, 2, 5), np.nan, np.float32)
    index, weights = np.array([[[0]], [[9]]]), np.zeros((2, 1, 1), np.float32)
    assert check(rows, index % 2, weights, "sum").tolist() == [[[0] * 5]]
    spec = WeightedTakeSpec("sum", dtypes.float32, dtypes.float32, dtypes.int64)
    write = np.empty((1, 1, 5), np.float32)
    assert run(select, spec, [rows, index, weights], [write]) == 0
    weights[1] = 1
    assert run(select, spec, [rows, index, weights], [write]) == STATUS_INDEX_OUT_OF_RANGE
    index[1] = -3
    assert run(select, spec, [rows, index, weights], [write]) == STATUS_INDEX_OUT_OF_RANGE
