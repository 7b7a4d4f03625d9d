"""Sorted rows against NumPy: types, orders, strides, each way a row is sorted, every way of splitting the work."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.sort import insertion_ns, radix_ns, select
from backends.native.target import Target, host
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.errors import ShapeError
from compiler.kernels import KernelCall, SortSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class, view_of

TYPES = (
    "float32", "float64", "float16", "bfloat16", "bool",
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip
# n, k: insertion, narrowing first, all by radix
WAYS = ((1, 1), (2, 1), (17, 17), (300, 5), (257, 256), (1000, 1000), (5003, 600), (5003, 1250), (5003, 1300))


def sorted_rows(
    x: np.ndarray,
    count: int,
    descending: bool = False,
    *,
    outputs: tuple[bool, bool] = (True, True),
    target: Target | None = None,
    threads: int = 1,
    order: tuple[int, ...] = (0, 1, 2),
) -> list[np.ndarray]:
    """The native results for x [A,n,B], which must be what the emulated kernel gives."""
    shape = (x.shape[0], count, x.shape[2])
    kinds = [dtype for dtype, wanted in zip((x.dtype, np.dtype(np.int64)), outputs, strict=True) if wanted]
    writes = [guarded(shape, dtype, order) for dtype in kinds]
    spec = SortSpec(dtypes.from_numpy(x.dtype), descending, *outputs, stride_class(x, 1))
    results = [array for array, _ in writes]
    assert run(select, spec, [x], results, target=target or host(), threads=threads) == 0
    call = KernelCall(spec, (view_of(x, "x"),), tuple(view_of(a, f"y{i}") for i, a in enumerate(results)))
    expected = [np.empty(shape, dtype) for dtype in kinds]
    run_call(call, [x], expected, int, "emulate")
    for (found, memory), wanted in zip(writes, expected, strict=True):
        assert_guards(memory)
        assert_same(np.ascontiguousarray(found), wanted)
    return results


def numbers(rng: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Every kind of number there is of a type, with ties."""
    dtype = dtypes.named(name)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    x = rng.integers(0, 1 << 63, shape, np.uint64).view(np.uint64).astype(f"u{dtype.bytes}").view(dtype.numpy)
    flat = x.reshape(-1)
    flat[::3] = flat[: len(flat[::3])]
    if dtype.is_float:
        special = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1, -1]).astype(dtype.numpy)
        flat[::5] = rng.choice(special, len(flat[::5]))
    return x


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", TYPES)
def test_types(rng: np.random.Generator, name: str, descending: bool, target: Target) -> None:
    for length, count in ((1, 1), (31, 31), (64, 3), (300, 300), (3001, 530)):
        sorted_rows(numbers(rng, (2, length, 1), name), count, descending, target=target)


@pytest.mark.parametrize(("length", "count"), WAYS)
def test_ways(rng: np.random.Generator, length: int, count: int) -> None:
    same = np.zeros((1, length, 1), np.float32)
    rising = np.arange(length, dtype=np.float32).reshape(1, length, 1)
    few = rng.integers(0, 3, (1, length, 1)).astype(np.float32)
    for x in (same, rising, -rising, few, rng.standard_normal((3, length, 1)).astype(np.float32)):
        for descending in (False, True):
            sorted_rows(x, count, descending)


def test_every_way_is_taken() -> None:
    by_insertion = [insertion_ns(n, k, 32) <= radix_ns(n, k, 4) for n, k in WAYS]
    narrowed = [4 * k <= n for n, k in WAYS]
    kinds = {(a, False if a else b) for a, b in zip(by_insertion, narrowed, strict=True)}
    assert kinds == {(True, False), (False, False), (False, True)}


@pytest.mark.parametrize("outputs", [(True, False), (False, True)])
def test_one_output(rng: np.random.Generator, outputs: tuple[bool, bool]) -> None:
    for length, count in WAYS[:5]:
        sorted_rows(numbers(rng, (2, length, 1), "float32"), count, outputs=outputs)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("length", [7, 300])
def test_strides(rng: np.random.Generator, length: int, order: tuple[int, ...]) -> None:
    whole = numbers(rng, (4, 2 * length, 6), "int32")
    for x in (whole[:, :length], whole[::2, ::2, ::3], np.broadcast_to(whole[:, :1], (4, length, 6))):
        sorted_rows(x, length, order=order)
        sorted_rows(x, 2, True, order=order)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_splitting(rng: np.random.Generator, threads: int) -> None:
    for shape in ((1, 50, 1), (997, 50, 1), (13, 700, 5)):
        sorted_rows(numbers(rng, shape, "float32"), 20, threads=threads)


def test_nothing(rng: np.random.Generator) -> None:
    for shape, count in (((3, 5, 2), 0), ((0, 5, 2), 3), ((2, 0, 2), 0)):
        sorted_rows(numbers(rng, shape, "float32"), count)


def test_more_than_there_are(rng: np.random.Generator) -> None:
    with pytest.raises(ShapeError, match="k is 6, but the axis has only 5"):
        sorted_rows(numbers(rng, (3, 5, 2), "float32"), 6)
