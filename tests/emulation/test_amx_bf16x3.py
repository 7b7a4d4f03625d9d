"""FP32 through bfloat16 pieces on emulated tiles: how far results are from the exact ones, beside FP32's own and the
bound of docs/precision.md, and what becomes of tiny, huge and infinite operands. Bits, tails and forms are in
test_amx_unit, which runs this unit like the others."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.target import Target
from backends.native.units import amx_bf16x3, generic
from compiler import dtypes
from tests.backends.native.forced import Form, defined
from tests.emulation.test_amx_unit import Product, machine, product

__all__ = ["machine", "product"]  # fixtures

(SPLIT,) = amx_bf16x3.UNITS
(FP32,) = [unit for unit in generic.units(64) if unit.a == dtypes.float32]
PLAIN, FRESH = Form("row", "row", constant=True), Form("row", "row")
UNIT = 2.0**-24  # half of the distance from 1 to the next number
TINY = 2.0**-126


def bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """docs/precision.md, of sums that do not overflow."""
    k = a.shape[1]
    roundings = (6 * -(-k // 32) + 16) * UNIT
    a, b = np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64))
    relative = UNIT * (1 + 2.0**-7) + roundings / (1 - roundings) * (1 + 2.0**-5)
    ones = np.ones(a.shape), np.ones(b.shape)
    return relative * (a @ b) + TINY * (1.01 * (a @ ones[1] + ones[0] @ b) + 7 * k + 12)


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64)


def scaled(rng: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    """Numbers of order one, of one sign, of many magnitudes in one sum, or all large or small."""
    x = rng.standard_normal(shape)
    if kind == "positive":
        x = np.abs(x)
    if kind == "mixed":
        x *= np.exp2(rng.integers(-20, 20, shape))
    return (x * {"large": 2.0**55, "small": 2.0**-45}.get(kind, 1.0)).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "positive", "mixed", "large", "small"])
def test_errors_are_no_greater_than_those_of_float32(kind: str, product: Product, rng: np.random.Generator) -> None:
    for m, n, k in ((33, 20, 40), (16, 17, 300), (18, 16, 1000)):
        a, b = scaled(rng, kind, m, k), scaled(rng, kind, k, n)
        truth = exact(a, b)
        found = product(SPLIT, a, b, PLAIN if k < 500 else FRESH)[0] - truth
        usual = defined(FP32, a, b) - truth
        assert 0 < np.linalg.norm(found) < (1.5 if kind == "mixed" else 0.8) * np.linalg.norm(usual)
        scale = exact(np.abs(a), np.abs(b))
        assert (np.abs(found) / scale).max() < 2 * (np.abs(usual) / scale).max()
        assert (np.abs(found) <= bound(a, b)).all()


def test_products_alone_are_as_good_as_rounded(product: Product, rng: np.random.Generator) -> None:
    """One product an element: what is dropped shows beside a single rounding."""
    a, b = scaled(rng, "normal", 32, 1), scaled(rng, "normal", 1, 32)
    truth = exact(a, b)
    found = product(SPLIT, a, b, PLAIN)[0]
    assert (np.abs(found - truth) / np.abs(truth)).max() < 2 * UNIT
    assert (product(SPLIT, a, np.ones_like(b), PLAIN)[0] == a).all()  # all 24 bits of A arrive


def test_the_middle_of_the_range_is_exact_and_its_lower_end_is_lost(product: Product) -> None:
    """Pieces below 2^-126 count as 0: numbers from 2^-103 on, whose last bit is no less, lose none."""
    fractions = np.array([1.0, 1.25, 1 + 2.0**-7, 1 + 2.0**-12, 1 + 2.0**-23, 2 - 2.0**-23], np.float32)
    for exponent, relative in ((100, 0), (0, 0), (-100, 0), (-103, 0), (-112, 2.0**-14), (-122, 2.0**-4), (-127, 1)):
        a = np.ldexp(fractions, exponent)[:, None]
        found = product(SPLIT, a, np.ones((1, 3), np.float32), PLAIN)[0]
        np.testing.assert_allclose(found, np.broadcast_to(a, found.shape), rtol=relative, atol=0)
        assert relative or np.array_equal(found, np.broadcast_to(a, found.shape))
    assert not product(SPLIT, np.full((5, 2), 1e-39, np.float32), np.full((2, 3), 1e30, np.float32), PLAIN)[0].any()


def test_tiny_numbers_err_by_what_is_flushed(product: Product, rng: np.random.Generator) -> None:
    """By more than FP32 would, and by no more than the bound has for it."""
    for left, right in ((-118, 0), (10, -121), (-62, -63)):
        a = np.ldexp(scaled(rng, "normal", 17, 50), left)
        b = np.ldexp(scaled(rng, "normal", 50, 16), right)
        error = np.abs(product(SPLIT, a, b, PLAIN)[0] - exact(a, b))
        assert (error <= bound(a, b)).all() and (error > 50 * UNIT * exact(np.abs(a), np.abs(b))).any()


def test_the_largest_numbers_are_no_infinities(product: Product) -> None:
    """Rounding to bfloat16 would make them: the first piece is the largest bfloat16 instead."""
    largest = np.finfo(np.float32).max
    a = np.array([[largest], [-largest], [3.4e38], [3.395e38]], np.float32)
    b = np.array([[1.0, -0.5, 2.0**-100, 0.0]], np.float32)
    np.testing.assert_array_equal(product(SPLIT, a, b, FRESH)[0], a * b)
    np.testing.assert_array_equal(product(SPLIT, b.T, a.T, FRESH)[0], b.T * a.T)
    over = np.full((3, 2), 3e38, np.float32)
    assert (product(SPLIT, over, np.full((2, 3), 2.0, np.float32), PLAIN)[0] == np.inf).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_makes_its_row_or_column_nan(value: float, product: Product) -> None:
    """Where float32 gives infinities or NaNs. Padding is not in the way, other rows and columns stay as they are."""
    rng = np.random.default_rng(3)
    a, b = scaled(rng, "normal", 18, 37), scaled(rng, "normal", 37, 21)
    usual = product(SPLIT, a, b, PLAIN)[0]
    for rows, columns in (([4, 17], []), ([], [0, 20])):
        left, right = a.copy(), b.copy()
        left[rows, 5], right[36, columns] = value, value
        found = product(SPLIT, left, right, FRESH)[0]
        struck = np.zeros(found.shape, bool)
        struck[rows], struck[:, columns] = True, True
        assert np.isnan(found[struck]).all()
        np.testing.assert_array_equal(found[~struck], usual[~struck])
    assert np.isnan(product(SPLIT, np.full((5, 1), value, np.float32), np.zeros((1, 2), np.float32), PLAIN)[0]).all()


def test_it_is_permitted_not_usual(machine: Target) -> None:
    from backends.native.units import select

    kinds = (dtypes.float32,) * 3
    assert select(machine, *kinds, tiles=True, splits=3) == (SPLIT, "")
    assert select(machine, *kinds, tiles=True)[0].name != SPLIT.name
    few, reason = select(machine, *kinds, tiles=False, splits=3)
    assert few.acc_type is not None and reason == "amx_bf16x3 is for tiles of 16 rows"
