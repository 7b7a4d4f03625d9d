"""runtime.matmul of few elements over a long K: shared out over K, with the bits of the whole product."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from compiler.canonical import PRODUCT_CHUNK
from runtime import product_program
from runtime.options import Options
from runtime.product_operands import product_types
from tests.runtime.products import BYTES, FLOATS, INTEGERS, LAYOUTS, lay, numbers

LENGTHS = (2 * PRODUCT_CHUNK, 2 * PRODUCT_CHUNK + 1, 5 * PRODUCT_CHUNK + 123)
SHAPES = ((1, 1), (4, 6), (30, 1), (1, 33), (50, 70))


def long_factors(dtype: str, m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    return numbers(rng, (m, k), dtype), numbers(rng, (k, n), dtype)


def whole(monkeypatch: pytest.MonkeyPatch, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product without sharing it out, by a plan of its own."""
    with monkeypatch.context() as patched:
        patched.setattr(product_program, "cut_of", lambda *_: None)
        patched.setattr(product_program, "_plans", product_program.Recent(8))
        types = product_types(a.dtype, b.dtype, None)
        ready = product_program.plan_product(a, b, types, Options.resolve(1))
        result = np.empty(
            (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), types.result.numpy
        )
        ready.run(result)
    return result


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *BYTES])
def test_types(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in LENGTHS:
        a, b = long_factors(dtype, 3, k, 5)
        expected = whole(monkeypatch, a, b)
        for threads in (1, 2):
            assert runtime.matmul(a, b, threads=threads).tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for m, n in SHAPES:
        a, b = long_factors("float32", m, LENGTHS[2], n)
        left, right = lay(a, layout), lay(b, layout)
        expected = whole(monkeypatch, np.ascontiguousarray(left, a.dtype), np.ascontiguousarray(right, b.dtype))
        out = np.empty_like(expected)
        for threads in (1, 2):
            assert runtime.matmul(left, right, threads=threads).tobytes() == expected.tobytes()
            assert runtime.matmul(left, right, threads=threads, out=out).tobytes() == expected.tobytes()


def test_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for a_batch, b_batch in (((2, 3), (2, 3)), ((3,), (1,)), ((2, 1), (1, 3))):
        a = numbers(rng, (*a_batch, 2, LENGTHS[1]), "float32")
        b = numbers(rng, (*b_batch, LENGTHS[1], 4), "float32")
        assert runtime.matmul(a, b, threads=2).tobytes() == whole(monkeypatch, a, b).tobytes()


def test_dot_products_give_scalars() -> None:
    a = np.random.default_rng(2).standard_normal(LENGTHS[1])
    found = runtime.matmul(a, a)
    assert np.ndim(found) == 0 and found == pytest.approx(a @ a, rel=1e-14)


def test_one_program_serves_every_size() -> None:
    a, b = long_factors("float32", 3, LENGTHS[2], 5)
    runtime.matmul(a, b)
    before = product_program._program.cache_info().misses
    for m, n, k in ((7, 2, LENGTHS[2]), (2, 9, LENGTHS[2] + 1), (5, 5, LENGTHS[1])):
        runtime.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
    assert product_program._program.cache_info().misses == before
