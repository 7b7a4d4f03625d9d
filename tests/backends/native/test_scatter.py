"""Scatters against NumPy: types, strides, rows and elements, order, every way of splitting the work."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.kernel import STATUS_INDEX_OUT_OF_RANGE
from backends.native.scatter import _split, select
from backends.native.target import Target, host
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.kernels import KernelCall, ScatterSpec
from compiler.ops.core_scatter import combination
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class, view_of

TYPES = ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool")
REDUCTIONS = ("none", "add", "mul", "max", "min")


def scattered(
    table: np.ndarray,
    index: np.ndarray,
    updates: np.ndarray,
    reduction: str = "add",
    *,
    target: Target | None = None,
    threads: int = 1,
    order: tuple[int, ...] = (0, 1, 2),
) -> tuple[np.ndarray, int]:
    """The table after the native scatter, and the status; the same bits as the emulated one where that is 0."""
    dtype = dtypes.from_numpy(table.dtype)
    write, memory = guarded(table.shape, table.dtype, order)
    write[...] = table
    classes = (stride_class(updates), stride_class(index)), (stride_class(write),)
    spec = ScatterSpec(combination(reduction, dtype), dtypes.from_numpy(index.dtype), *classes)
    status = run(select, spec, [updates, index], [write], target=target or host(), threads=threads)
    assert_guards(memory)
    if not status:
        expected = table.copy()
        views = tuple(view_of(a, n) for a, n in ((updates, "u"), (index, "i"), (write, "w")))
        run_call(KernelCall(spec, views[:2], views[2:]), [updates, index], [expected], int, "emulate")
        assert_same(np.ascontiguousarray(write), expected)
    return write, status


def numbers(rng: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    dtype = dtypes.named(name)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    return (rng.standard_normal(shape) * (3 if dtype.is_float else 40)).astype(dtype.numpy)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", TYPES)
def test_rows(rng: np.random.Generator, name: str, reduction: str, target: Target) -> None:
    if name == "float16" and target.vector == 16:
        pytest.skip("converts float16 by instructions that target is denied")
    for width in (2, 15, 17, 64, 133):
        table, updates = numbers(rng, (2, 5, width), name), numbers(rng, (2, 11, width), name)
        index = np.broadcast_to(rng.integers(-5, 5, (2, 11, 1)), updates.shape)
        assert scattered(table, index, updates, reduction, target=target)[1] == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", TYPES)
def test_elements(rng: np.random.Generator, name: str, reduction: str) -> None:
    for outer, available, count, width in [(1, 9, 7, 1), (3, 4, 20, 9), (2, 6, 0, 3)]:
        table, updates = numbers(rng, (outer, available, width), name), numbers(rng, (outer, count, width), name)
        index = rng.integers(-available, available, updates.shape).astype(np.int32)
        assert scattered(table, index, updates, reduction)[1] == 0


def test_strides_and_repeated_updates(rng: np.random.Generator) -> None:
    table = numbers(rng, (2, 6, 21), "float32")
    index = np.broadcast_to(rng.integers(0, 6, (1, 40, 1)), (2, 40, 21))
    for updates in (
        numbers(rng, (21, 40, 2), "float32").T,
        np.broadcast_to(np.float32(1.5), (2, 40, 21)),
        numbers(rng, (2, 80, 42), "float32")[:, ::-2, ::2],
    ):
        for order in ((0, 1, 2), (0, 2, 1), (2, 1, 0)):
            assert scattered(table, index, updates, order=order)[1] == 0


def test_every_step_is_rounded() -> None:
    updates = np.full((1, 5000, 1), 1, np.float16)
    found, _ = scattered(np.zeros((1, 1, 1), np.float16), np.zeros(updates.shape, np.int64), updates)
    expected = np.zeros(1, np.float16)
    np.add.at(expected, np.zeros(5000, np.int64), updates[0, :, 0])
    assert found.item() == expected.item() == 2048  # where the next float16 is 2 on


@pytest.mark.parametrize("shape", [(64, 30, 3), (3, 200, 900), (1, 20_000, 1), (2, 50, 4000), (1, 3, 7000)])
@pytest.mark.parametrize("whole", [True, False])
def test_splits_do_not_show(rng: np.random.Generator, shape: tuple[int, int, int], whole: bool) -> None:
    outer, count, width = shape
    updates, table = numbers(rng, shape, "float32"), numbers(rng, (outer, 50, width), "float32")
    index = rng.integers(-50, 50, (outer, count, 1 if whole else width))
    index = np.broadcast_to(index, shape) if width > 1 else index
    one, many, more = (scattered(table, index, updates, threads=threads)[0] for threads in (1, 3, 8))
    assert_same(one, many)
    assert_same(one, more)


def test_ways_to_split() -> None:
    assert _split(64, 10, 5, 20, 1e7, 4) == (4, 5, 10)  # outer positions
    assert _split(2, 10, 1024, 4096, 1e7, 4) == (1, 128, 10)  # and pieces of rows
    assert _split(1, 1000, 4, 16, 1e7, 4) == (1, 4, 250)  # ranges of places
    assert _split(1, 1000, 4, 16, 1e3, 4) == (1, 4, 1000)
    assert _split(0, 0, 0, 0, 0, 4) == (1, 1, 1)


@pytest.mark.parametrize("bad", [5, -6, 2**40, -(2**62)])
@pytest.mark.parametrize("threads", [1, 4])
def test_out_of_range_is_reported_and_left_out(rng: np.random.Generator, bad: int, threads: int) -> None:
    table, updates = numbers(rng, (1, 5, 3), "int32"), numbers(rng, (1, 4000, 3), "int32")
    index = np.zeros((1, 4000, 1), np.int64)
    index[0, 7] = bad
    for spread in (np.broadcast_to(index, updates.shape), np.repeat(index, 3, axis=2)):
        found, status = scattered(table, spread, updates, threads=threads)
        assert status == STATUS_INDEX_OUT_OF_RANGE
        kept = np.delete(updates, 7, axis=1)
        assert np.array_equal(found[:, 0], table[:, 0] + kept.sum(axis=1, dtype=np.int32))
        assert np.array_equal(found[:, 1:], table[:, 1:])
