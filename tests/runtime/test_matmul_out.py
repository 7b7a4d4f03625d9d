"""runtime.matmul's `out`: filled in place where it can be, right where it cannot, refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime import product
from tests.runtime.products import FLOATS, INTEGERS, numbers
from tests.runtime.test_matmul import stays_native


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4), (1, 1), (3, 0)])
def test_filled_in_place(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> None:
    a, b = numbers(rng, shape, dtype), numbers(rng, (shape[-1], 6), dtype)
    expected = runtime.matmul(a, b)
    out = np.full(expected.shape, 99, expected.dtype)
    address = out.ctypes.data
    for _ in range(3):
        assert runtime.matmul(a, b, out=out) is out
        assert out.tobytes() == expected.tobytes()
        out[...] = 98
    assert out.ctypes.data == address
    if shape[-1]:
        assert stays_native(a, b, out)


def test_nothing_is_copied_where_it_fits(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 11, 11))
    expected, out = a @ b, np.empty((11, 11))
    monkeypatch.setattr(product.np, "copyto", None)
    for _ in range(2):
        assert np.allclose(runtime.matmul(a, b, out=out), expected)


@pytest.mark.parametrize("known", [False, True])
def test_overlap_and_other_layouts(rng: np.random.Generator, known: bool) -> None:
    a, b = rng.standard_normal((2, 13, 13))
    expected = a @ b
    if known:
        runtime.matmul(a, b)
    memory = np.zeros((3, 13, 13))
    memory[0] = a
    for x, y, out in ((a.copy(), b, 0), (a, b.copy(), 1), (memory[0], b, memory.reshape(-1)[60:229].reshape(13, 13))):
        target = (x, y)[out] if isinstance(out, int) else out
        assert runtime.matmul(x, y, out=target) is target
        assert np.allclose(target, expected)
    guarded = np.full((15, 30), 7.0)
    for out in (guarded[1:14, 1:27:2], guarded[1:14, 1:14], guarded[13:0:-1, 1:14], guarded.T[1:14, 1:14]):
        guarded[...] = 7.0
        assert runtime.matmul(a, b, out=out) is out
        assert np.allclose(out, expected)
        assert np.count_nonzero(guarded == 7.0) == guarded.size - out.size


def test_reversed_operand_that_ends_where_out_begins(rng: np.random.Generator) -> None:
    memory = rng.standard_normal(200)
    b = rng.standard_normal((10, 10))
    a, out = memory[100:].reshape(10, 10)[::-1], memory[50:150].reshape(10, 10)
    expected = a @ b
    runtime.matmul(a, b)
    assert np.allclose(runtime.matmul(a, b, out=out), expected)


def test_files_and_unaligned_memory(rng: np.random.Generator, tmp_path: Path) -> None:
    a, b = rng.standard_normal((2, 9, 9))
    expected = runtime.matmul(a, b)
    mapped = np.memmap(tmp_path / "out", np.float64, "w+", shape=(9, 9))
    unaligned = np.zeros(9 * 9 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(9, 9)
    for out in (mapped, unaligned, np.zeros((9, 9)).view(np.matrix)):
        for _ in range(2):
            assert runtime.matmul(a, b, out=out) is out
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("known", [False, True])
def test_refused(known: bool) -> None:
    a = np.eye(3)
    if known:
        runtime.matmul(a, a)
    read_only = np.zeros((3, 3))
    read_only.flags.writeable = False
    for out, error, words in (
        (np.zeros((3, 4)), runtime.ShapeError, r"out has shape \(3, 4\), expected \(3, 3\)"),
        (np.zeros((1, 3, 3)), runtime.ShapeError, "expected"),
        (np.zeros((3, 3), np.float32), runtime.DtypeError, "out is float32, expected float64"),
        (np.zeros((3, 3), ">f8"), runtime.DtypeError, "out is >f8, expected float64"),
        ([[0.0] * 3] * 3, runtime.DtypeError, "out is list, expected a NumPy array"),
        (read_only, ValueError, "read-only"),
    ):
        with pytest.raises(error, match=words):
            runtime.matmul(a, a, out=out)
    assert not read_only.any()


def test_no_references_are_lost_or_kept() -> None:
    import sys

    a, out = np.eye(4), np.empty((4, 4))
    runtime.matmul(a, a, out=out)
    before = sys.getrefcount(a), sys.getrefcount(out)
    for _ in range(50):
        runtime.matmul(a, a, out=out)
    assert (sys.getrefcount(a), sys.getrefcount(out)) == before
