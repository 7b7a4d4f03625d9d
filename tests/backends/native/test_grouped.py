"""Grouped products: every row equals, bit for bit, the plain product with the matrix of its group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.kernel import STATUS_INDEX_OUT_OF_RANGE
from compiler.dtypes import float32
from compiler.expr import apply, arg, const
from tests.backends.native.fake_unit import FAKE
from tests.backends.native.harness import assert_same
from tests.backends.native.pages import at_page_end
from tests.backends.native.products import accumulator, multiply

RNG = np.random.default_rng(31)
# Where the groups end; 61 rows in all. Groups of 0, 1, 3, 8, 9 rows, one group, no rows, rows behind the last group.
ROUTINGS = (
    (8, 8, 17, 20, 21, 61),
    (0, 0, 0, 0, 0, 61),
    (61,) * 6,
    (0,) * 6,
    (1, 2, 3, 4, 5, 6),
    (10, 21, 33, 40, 52, 60),
)


def draw(*shape: int, kind: type = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(kind)


def expected(a: np.ndarray, b: np.ndarray, ends: Sequence[int], constant: bool) -> np.ndarray:
    """Group by group with the plain kernel."""
    result = np.zeros((len(a), b.shape[-1]), a.dtype)
    for matrix, start, stop in zip(b, (0, *ends), ends, strict=False):
        if stop > start:
            result[start:stop] = multiply(a[start:stop], matrix, constant=constant, symbolic=True)[0]
    return result


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("layout", ["row", "column"])
def test_groups_equal_their_plain_products(kind: type, constant: bool, layout: str) -> None:
    b = draw(6, 19, 53, kind=kind) if layout == "row" else draw(6, 53, 19, kind=kind).swapaxes(1, 2)
    a = draw(61, 19, kind=kind)
    for ends in ROUTINGS:
        wanted = expected(a, b, ends, constant)
        for threads in (1, 2, 3):
            for index in (np.int32, np.int64):
                found = multiply(a, b, constant=constant, threads=threads, ends=np.array(ends, index))[0]
                assert_same(found, wanted)


@pytest.mark.parametrize("constant", [False, True])
def test_cuts_of_rows_columns_and_depth_do_not_show(constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = draw(61, 37), draw(6, 37, 200)
    for ends in ROUTINGS:
        whole = multiply(a, b, constant=constant, ends=np.array(ends))[0]
        for rows, columns, block, depth in ((16, 96, 8, 37), (61, 48, 24, 10), (24, 200, 24, 1)):
            cut = Blocking(rows, columns, block, depth, 2, True, True)
            with monkeypatch.context() as context:
                context.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
                assert_same(multiply(a, b, constant=constant, ends=np.array(ends))[0], whole)


@pytest.mark.parametrize("constant", [False, True])
def test_epilogues_know_the_row_of_the_whole_product(constant: bool) -> None:
    a, b, residual, bias = draw(61, 8), draw(6, 8, 70), draw(61, 70), draw(70)
    short = accumulator(np.float32) + arg(1, float32)
    long = short
    for factor in (0.5, 0.25, 0.125, 2.0):
        long = apply("max", long * const(factor, float32), short) - arg(2, float32)
    for ends in ROUTINGS:
        wanted = expected(a, b, ends, constant) + residual
        options = {"operands": [residual, bias], "constant": constant, "ends": np.array(ends)}
        assert_same(multiply(a, b, epilogue=(short,), **options)[0], wanted)
        result = wanted
        for factor in (0.5, 0.25, 0.125, 2.0):
            result = np.maximum(result * np.float32(factor), wanted) - bias
        assert_same(multiply(a, b, epilogue=(long,), **options)[0], result)


@pytest.mark.parametrize("constant", [False, True])
def test_units_that_pack_rows_take_groups_from_any_row_on(constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "select_unit", lambda *_: (FAKE, ""))
    a, b = RNG.integers(-8, 8, (61, 7)).astype(np.float32), RNG.integers(-8, 8, (6, 7, 23)).astype(np.float32)
    for ends in ROUTINGS:
        wanted = np.zeros((61, 23), np.float32)
        for matrix, start, stop in zip(b, (0, *ends), ends, strict=False):
            wanted[start:stop] = a[start:stop] @ matrix
        assert_same(multiply(a, b, constant=constant, ends=np.array(ends))[0], wanted)


def test_extents_of_nothing() -> None:
    assert multiply(draw(0, 3), draw(2, 3, 5), ends=np.zeros(2, np.int32))[0].shape == (0, 5)
    for ends in ([0, 0], [2, 4]):
        assert_same(multiply(draw(4, 0), draw(2, 0, 5), ends=np.array(ends))[0], np.zeros((4, 5), np.float32))
    assert_same(multiply(draw(4, 3), draw(0, 3, 5), ends=np.zeros(0, np.int32))[0], np.zeros((4, 5), np.float32))


@pytest.mark.parametrize("ends", [(5, 3, 9), (3, 5, 10), (-1, 3, 5), (2**62, 2**62, 2**62)])
def test_wrong_ends_are_reported_and_nothing_outside_is_touched(ends: tuple[int, ...]) -> None:
    a, b = at_page_end(draw(9, 4)), at_page_end(draw(3, 4, 33))
    where = at_page_end(np.array(ends, np.int64))
    for threads in (1, 3):
        multiply(a, b, ends=where, threads=threads, status=STATUS_INDEX_OUT_OF_RANGE)
