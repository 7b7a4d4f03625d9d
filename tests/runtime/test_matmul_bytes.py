"""runtime.matmul of int8 and uint8, mixed or not: exact int32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from tests.runtime.products import BYTES, LAYOUTS, check, lay, numbers
from tests.runtime.test_matmul import Shapes, shapes, stays_native


@settings(deadline=None, max_examples=200)
@given(shapes(), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.sampled_from(BYTES), st.sampled_from(BYTES))
def test_any_shapes_and_layouts(both: Shapes, a_layout: str, b_layout: str, a_dtype: str, b_dtype: str) -> None:
    rng = np.random.default_rng(len(repr((both, a_layout, b_layout))))
    a, b = lay(numbers(rng, both[0], a_dtype), a_layout), lay(numbers(rng, both[1], b_dtype), b_layout)
    first = check(a, b)
    assert np.array_equal(runtime.matmul(a, b), first)


@pytest.mark.parametrize("a_dtype", BYTES)
@pytest.mark.parametrize("b_dtype", BYTES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_larger_than_blocks(rng: np.random.Generator, a_dtype: str, b_dtype: str, layout: str) -> None:
    for shape, other in (((130, 301), (301, 190)), ((130, 301), (301,)), ((301,), (301, 90))):
        check(lay(numbers(rng, shape, a_dtype), layout), lay(numbers(rng, other, b_dtype), layout))


@pytest.mark.parametrize("a_dtype", BYTES)
@pytest.mark.parametrize("b_dtype", BYTES)
def test_extremes_do_not_saturate(a_dtype: str, b_dtype: str) -> None:
    for a in (np.iinfo(a_dtype).min, np.iinfo(a_dtype).max):
        for b in (np.iinfo(b_dtype).min, np.iinfo(b_dtype).max):
            x, y = np.full((9, 1000), a, a_dtype), np.full((1000, 50), b, b_dtype)
            check(x, y)


@pytest.mark.parametrize("a_dtype", BYTES)
@pytest.mark.parametrize("b_dtype", BYTES)
def test_threads_and_out(rng: np.random.Generator, a_dtype: str, b_dtype: str) -> None:
    a, b = numbers(rng, (200, 300), a_dtype), numbers(rng, (300, 250), b_dtype)
    out = np.empty((200, 250), np.int32)
    for threads in (1, 2, 3):
        expected = check(a, b, threads=threads)
        assert runtime.matmul(a, b, out=out, threads=threads) is out
        assert np.array_equal(out, expected)
    check(a, b)
    assert stays_native(a, b, out)
    with pytest.raises(runtime.DtypeError, match="out is int8, expected int32"):
        runtime.matmul(a, b, out=np.empty((200, 250), np.int8))


def test_torch_bytes() -> None:
    torch = pytest.importorskip("torch")
    a = torch.randint(0, 255, (5, 6), dtype=torch.uint8)
    b = torch.randint(-128, 127, (6, 7), dtype=torch.int8)
    found = runtime.matmul(a, b)
    assert found.dtype == torch.int32
    assert torch.equal(found, a.int() @ b.int())
