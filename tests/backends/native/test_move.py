"""Copies and gathers against NumPy: element sizes, strides, tiles, indices, chunking."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.copy_plan import CONTIGUOUS, ELEMENTWISE, REPEATED, TRANSPOSED, merge_axes, plan_copy
from backends.native.kernel import STATUS_INDEX_OUT_OF_RANGE
from backends.native.move import select
from backends.native.target import Target, host
from compiler import dtypes
from compiler.kernels import MoveSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class

TYPES = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}


def samples(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> np.ndarray:
    return rng.integers(0, 256, (*shape, size), np.uint8).view(TYPES[size])[..., 0]


def assert_copies(
    source: np.ndarray, order: tuple[int, ...] | None = None, target: Target | None = None, threads: int = 1
) -> None:
    """`source` copied to an array dense in axis order `order`."""
    write, memory = guarded(source.shape, source.dtype, order)
    classes = (stride_class(source),), (stride_class(write),)
    spec = MoveSpec("copy", source.itemsize, source.ndim, None, *classes)
    assert run(select, spec, [source], [write], target=target, threads=threads) == 0
    assert write.tobytes() == source.tobytes()
    assert_guards(memory)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("size", TYPES)
def test_copies_of_every_element_size(rng: np.random.Generator, size: int, target: Target) -> None:
    for n in (0, 1, 3, 15, 16, 17, 33, 64, 129, 300):
        a = samples(rng, (n,), size)
        assert_copies(a, target=target)
        assert_copies(a[::-1], target=target)
        wide = samples(rng, (3, 2 * n + 1, 5), size)
        assert_copies(wide[:, 1::2, 1:4], target=target)
        assert_copies(np.broadcast_to(a[:, None], (n, 37)), target=target)
        assert_copies(np.broadcast_to(a, (5, n)), target=target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("size", TYPES)
def test_transposes(rng: np.random.Generator, size: int, target: Target) -> None:
    for rows, columns in [(16, 16), (17, 33), (3, 50), (50, 3), (64, 19), (40, 40), (1, 7)]:
        a = samples(rng, (2, rows, columns), size)
        assert_copies(a.transpose(0, 2, 1), target=target)
        assert_copies(a, (0, 2, 1), target=target)
        assert_copies(a[:, ::-1].transpose(0, 2, 1), target=target)
        assert_copies(a[:, :, ::-1].transpose(2, 0, 1), target=target)


def test_permutations_of_four_axes(rng: np.random.Generator) -> None:
    a = samples(rng, (3, 18, 5, 20), 4)
    for order in [(0, 2, 1, 3), (3, 2, 1, 0), (1, 3, 0, 2), (0, 3, 1, 2), (2, 0, 3, 1)]:
        assert_copies(a.transpose(order))
        assert_copies(a.transpose(order), (3, 1, 0, 2))


def test_scalar(rng: np.random.Generator) -> None:
    assert_copies(samples(rng, (1,), 4).reshape(()))


@pytest.mark.parametrize("shape", [(200_000,), (3, 70_000), (700, 300), (40_000, 3)])
def test_chunks_do_not_show(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    a = samples(rng, shape, 4)
    assert_copies(a, threads=5)
    assert_copies(a.transpose(), threads=5)


def test_plans() -> None:
    assert plan_copy([(8, 64, 64), (16, 4, 4)], 4, 16).length == 128
    assert plan_copy([(64, 4, 256), (64, 256, 4)], 4, 16).mode == TRANSPOSED
    assert plan_copy([(9, 4, 256), (64, 256, 4)], 4, 16).mode == ELEMENTWISE
    assert plan_copy([(9, 4, 256), (64, 0, 4)], 4, 16).mode == REPEATED
    assert plan_copy([(5, 999, 256), (64, 4, 4)], 4, 16).mode == CONTIGUOUS
    narrow = plan_copy([(50_000, 4, 12), (3, 200_000, 4)], 4, 16)
    assert (narrow.mode, narrow.length) == (ELEMENTWISE, 50_000)
    assert merge_axes([(1, 5, 5), (1, 7, 7)]) == [(1, 0, 0)]


def run_take(
    data: np.ndarray, index: np.ndarray, *, target: Target | None = None, threads: int = 1
) -> tuple[np.ndarray, int]:
    """data[:, index] and the status."""
    write, memory = guarded((data.shape[0], len(index), data.shape[2]), data.dtype)
    classes = (stride_class(data), stride_class(index)), (stride_class(write),)
    spec = MoveSpec("take", data.itemsize, 3, dtypes.from_numpy(index.dtype), *classes)
    status = run(select, spec, [data, index], [write], target=target or host(), threads=threads)
    assert_guards(memory)
    return write, status


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("size", TYPES)
def test_take(rng: np.random.Generator, size: int, kind: type, target: Target) -> None:
    for outer, available, width in [(1, 10, 1), (3, 7, 5), (2, 5, 64), (2, 4, 200), (1, 3, 0)]:
        data = samples(rng, (outer, available, width), size)
        index = rng.integers(-available, available, 13).astype(kind)
        found, status = run_take(data, index, target=target)
        assert status == 0
        assert_same(found.view(np.uint8), np.ascontiguousarray(data[:, index]).view(np.uint8))


def test_take_with_strides(rng: np.random.Generator) -> None:
    data = samples(rng, (6, 30, 4), 4).transpose(2, 1, 0)[:, ::-2]
    index = rng.integers(-15, 15, 40)[::-2]
    found, status = run_take(data, index)
    assert status == 0
    assert_same(found, np.ascontiguousarray(data[:, index]))


def test_take_of_nothing(rng: np.random.Generator) -> None:
    found, status = run_take(samples(rng, (2, 0, 4), 4), np.zeros(0, np.int64))
    assert (found.size, status) == (0, 0)


@pytest.mark.parametrize("bad", [5, -6, 2**40, -(2**62)])
def test_take_out_of_range_is_reported_and_writes_nothing_for_that_row(rng: np.random.Generator, bad: int) -> None:
    data = samples(rng, (2, 5, 9), 4)
    found, status = run_take(data, np.array([1, bad, -5]))
    assert status == STATUS_INDEX_OUT_OF_RANGE
    assert_same(found[:, [0, 2]], data[:, [1, 0]])
    assert (found[:, 1].view(np.uint8) == 0xA5).all()


def test_take_in_many_chunks(rng: np.random.Generator) -> None:
    data = samples(rng, (3, 1000, 64), 4)
    index = rng.integers(0, 1000, 5000)
    one, many = (run_take(data, index, threads=threads)[0] for threads in (1, 7))
    assert_same(one, many)
    assert_same(one, data[:, index])


@pytest.mark.parametrize("size", TYPES)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_take_elements(rng: np.random.Generator, size: int, kind: type) -> None:
    for outer, available, count, width in [(1, 5, 7, 1), (3, 4, 2, 9), (2, 6, 0, 3), (40, 11, 90, 3)]:
        data = samples(rng, (width, available, outer), size).transpose(2, 1, 0)
        index = rng.integers(-available, available, (outer, count, width)).astype(kind)
        write, memory = guarded(index.shape, data.dtype)
        spec = MoveSpec("take_elements", size, 3, dtypes.from_numpy(index.dtype), ("general", "unit"), ("unit",))
        assert run(select, spec, [data, index], [write], threads=3) == 0
        assert write.tobytes() == np.take_along_axis(data, index % available, 1).tobytes()
        assert_guards(memory)


def test_take_elements_in_many_chunks(rng: np.random.Generator) -> None:
    for outer, count, width in [(1, 1, 50_000), (3, 1, 9_000), (2, 4_000, 3)]:
        data = np.broadcast_to(samples(rng, (outer, 100, 1), 4), (outer, 100, width))
        index = rng.integers(-100, 100, (outer, count, width))
        spec = MoveSpec("take_elements", 4, 3, dtypes.int64, ("broadcast", "unit"), ("unit",))
        for threads in (1, 5):
            write, memory = guarded(index.shape, data.dtype)
            assert run(select, spec, [data, index], [write], threads=threads) == 0
            assert_same(write, np.take_along_axis(data, index % 100, 1))
            assert_guards(memory)


def test_elements_out_of_range_are_reported() -> None:
    write = np.full((1, 4, 1), 7, np.int32)
    index = np.array([0, 4, -5, 3])[None, :, None]
    spec = MoveSpec("take_elements", 4, 3, dtypes.int64, ("unit", "unit"), ("unit",))
    data = np.arange(4, dtype=np.int32)[None, :, None]
    assert run(select, spec, [data, index], [write]) == STATUS_INDEX_OUT_OF_RANGE
    assert write[0, :, 0].tolist() == [0, 7, 7, 3]
