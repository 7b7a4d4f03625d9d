"""Elementwise kernels against NumPy: sizes, dtypes, strides, positions, aliasing, chunking."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.map import select
from backends.native.target import Target, host
from compiler import dtypes
from compiler.expr import Expr, apply, arg, cast, const, index
from compiler.kernels import MapSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class

SIZES = (0, 1, 2, 3, 7, 15, 16, 17, 31, 63, 64, 65, 127, 257)


def map_spec(outputs: tuple[Expr, ...], reads: list[np.ndarray], writes: list[np.ndarray]) -> MapSpec:
    return MapSpec(
        outputs,
        tuple(dtypes.from_numpy(read.dtype) for read in reads),
        writes[0].ndim,
        tuple(map(stride_class, reads)),
        tuple(map(stride_class, writes)),
    )


def run_map(
    outputs: tuple[Expr, ...],
    reads: list[np.ndarray],
    shape: tuple[int, ...],
    *,
    order: tuple[int, ...] | None = None,
    target: Target | None = None,
    threads: int = 1,
) -> list[np.ndarray]:
    """The outputs of a map over reads broadcast to `shape`; canaries checked."""
    reads = [np.broadcast_to(read, shape) for read in reads]
    made = [guarded(shape, root.dtype.numpy, order) for root in outputs]
    writes = [array for array, _ in made]
    assert run(select, map_spec(outputs, reads, writes), reads, writes, target=target, threads=threads) == 0
    for _, memory in made:
        assert_guards(memory)
    return writes


def f32(number: int) -> Expr:
    return arg(number, dtypes.float32)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_every_tail(rng: np.random.Generator, target: Target) -> None:
    for size in SIZES:
        a, b = rng.standard_normal((2, 3, size), np.float32)
        (found,) = run_map((f32(0) * f32(1) + f32(0),), [a, b], (3, size), target=target)
        assert_same(found, a * b + a)


@pytest.mark.parametrize("name", ["float64", "float32", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint64"])
def test_every_type(rng: np.random.Generator, name: str) -> None:
    dtype = dtypes.named(name)
    a, b = rng.integers(0, 50, (2, 5, 67)).astype(name)
    (found,) = run_map((arg(0, dtype) * arg(1, dtype),), [a, b], (5, 67))
    assert_same(found, a * b)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_mixed_types_and_bool(rng: np.random.Generator, target: Target) -> None:
    a = rng.integers(-9, 9, (4, 75)).astype(np.int8)
    b = rng.standard_normal((4, 75))
    mask = rng.integers(0, 2, (4, 75)).astype(bool)
    wide = cast(arg(0, dtypes.int8), dtypes.float64)
    flag = apply("and", apply("lt", wide, arg(1, dtypes.float64)), arg(2, dtypes.boolean))
    outputs = (flag, cast(wide + arg(1, dtypes.float64), dtypes.float32), cast(flag, dtypes.int16))
    found = run_map(outputs, [a, b, mask], (4, 75), target=target)
    expected = (a < b) & mask
    assert_same(found[0], expected)
    assert_same(found[1], (a + b).astype(np.float32))
    assert_same(found[2], expected.astype(np.int16))


def test_strides(rng: np.random.Generator) -> None:
    shape = (3, 5, 37)
    a = rng.standard_normal((37, 5, 3)).astype(np.float32).transpose()  # general on the last axis
    b = rng.standard_normal((3, 5, 80)).astype(np.float32)[:, ::-1, 73::-2]  # negative
    c = rng.standard_normal((5, 1)).astype(np.float32)  # repeated
    root = f32(0) - f32(1) * f32(2)
    expected = a - b * c
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0)]:
        for target in TARGETS:
            (found,) = run_map((root,), [a, b, c], shape, order=order, target=target)
            assert_same(found, expected)


def test_transposing_map_in_many_chunks(rng: np.random.Generator) -> None:
    a = rng.standard_normal((300, 200)).astype(np.float32).transpose()
    b = rng.standard_normal((200, 300)).astype(np.float32)
    (found,) = run_map((f32(0) + f32(1),), [a, b], (200, 300), threads=4)
    assert_same(found, a + b)


def test_narrow_type_general_strides(rng: np.random.Generator) -> None:
    a = rng.integers(0, 2, (41, 6)).astype(bool).transpose()
    (found,) = run_map((apply("not", arg(0, dtypes.boolean)),), [a], (6, 41), order=(1, 0))
    assert_same(found, ~a)


def test_positions() -> None:
    shape = (3, 2, 21)
    root = (index(0) * 100 + index(1)) * 100 + index(2)
    (found,) = run_map((root,), [], shape)
    i, j, k = np.indices(shape)
    assert_same(found, (i * 100 + j) * 100 + k)


def test_causal_mask_keeps_full_vectors() -> None:
    allowed = apply("le", index(1), index(0))
    root = apply("select", allowed, f32(0), const(-np.inf, dtypes.float32))
    a = np.ones((33, 33), np.float32)
    (found,) = run_map((root,), [a], (33, 33))
    assert_same(found, np.where(np.tri(33, dtype=bool), a, np.float32(-np.inf)))


def test_scalar() -> None:
    a, b = np.array(3.0, np.float32), np.array(4.0, np.float32)
    (found,) = run_map((f32(0) * f32(1),), [a, b], ())
    assert found == 12.0


def test_zero_size_outer_axis() -> None:
    a = np.zeros((0, 5), np.float32)
    run_map((f32(0) + 1.0,), [a], (0, 5))
    run_map((f32(0) + 1.0,), [a.reshape(3, 0, 5)], (3, 0, 5))


@pytest.mark.parametrize("size", [5, 64, 333])
def test_in_place(rng: np.random.Generator, size: int) -> None:
    a, b = rng.standard_normal((2, 4, size), np.float32)
    expected = a * b - b, a + b
    outputs = (f32(0) * f32(1) - f32(1), f32(0) + f32(1))
    reads = writes = [a, b]
    run(select, map_spec(outputs, reads, writes), reads, writes)
    assert_same(a, expected[0])
    assert_same(b, expected[1])


@pytest.mark.parametrize("shape", [(1, 100_003), (7, 20_011), (40_000, 3)])
def test_chunks_do_not_show(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    a = rng.standard_normal(shape).astype(np.float32)
    root = apply("exp", f32(0)) * f32(0)
    one, many = (run_map((root,), [a], shape, threads=threads)[0] for threads in (1, 6))
    assert_same(one, many)


def test_units_agree(rng: np.random.Generator) -> None:
    a = (rng.standard_normal((3, 77)) * 20).astype(np.float32)
    results = [run_map((apply("tanh", f32(0)) * apply("erf", f32(0)),), [a], (3, 77), target=t)[0] for t in TARGETS]
    for other in results[1:]:
        assert_same(other, results[0])


def test_names_follow_the_spec() -> None:
    a = np.zeros((2, 8), np.float32)
    spec = map_spec((f32(0) + 1.0,), [a], [a])
    same = map_spec((f32(0) + 1.0,), [a], [a])
    other = map_spec((f32(0) + 2.0,), [a], [a])
    names = [select_name(s) for s in (spec, same, other)]
    assert names[0] == names[1] != names[2]


def select_name(spec: MapSpec) -> str:
    from compiler.kernels import KernelCall

    return select(KernelCall(spec, (), ()), host()).name
