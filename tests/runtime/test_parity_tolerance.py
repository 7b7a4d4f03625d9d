"""Bounds on errors: what they grow with, and what they leave out."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import dtypes
from runtime.parity.compare import compare
from runtime.parity.metrics import measure
from runtime.parity.source import open_source
from runtime.parity.tolerance import OWN_TYPES, ROUNDOFFS, Depth, Limit, Roundoff, depths, disturbed, own_limit
from tests.runtime.parity_models import convolutions, model, node, quantized

RNG = np.random.default_rng(0)


def test_depth_is_the_longest_sum_of_a_node() -> None:
    made, draw = convolutions()
    found = depths(open_source(made, draw(0)).exposed)
    base = Depth().steps
    assert found["Conv.a0"].steps >= base + 3 * 3 * 3 and found["Conv.a0"].products
    assert found["GlobalAveragePool.s0"].steps >= base + 6 * 6
    assert found["Relu.a"].steps < base + 8 and not found["Relu.a"].products
    assert found["Conv.a0"].steps < found["Conv.b0"].steps < 100


def test_products_of_integers_are_exact() -> None:
    made, draw = quantized()
    found = depths(open_source(made, draw(0)).exposed)
    assert not found["MatMulInteger.acc"].products
    report = compare(made, draw(0))
    assert {row.node: row for row in report.rows}["MatMulInteger.acc"].own["native"].limit.different == 0


def test_disturbances_are_of_one_rounding() -> None:
    ones = np.ones(100_000)
    for dtype, roundoff, expected in (
        (dtypes.float32, OWN_TYPES, 2.0**-24),
        (dtypes.bfloat16, OWN_TYPES, 2.0**-8),
        (dtypes.float32, ROUNDOFFS["bf16"], 2.0**-8),
        (dtypes.float32, ROUNDOFFS["fp64"], 2.0**-53),
    ):
        moved = disturbed(ones, dtype, roundoff, RNG) - 1
        assert np.std(moved) == pytest.approx(expected, rel=0.1 if expected > 1e-15 else 0.5)
    absolute = disturbed(np.array([0.0] * 1000 + [100.0]), dtypes.float32, Roundoff(absolute=0.01), RNG)
    assert np.std(absolute[:1000]) == pytest.approx(1, rel=0.1)
    special = np.array([np.inf, -np.inf, np.nan])
    assert np.array_equal(disturbed(special, dtypes.float32, OWN_TYPES, RNG), special, equal_nan=True)


def test_cancellation_is_in_the_bound() -> None:
    """A difference of large numbers may be as wrong as these are rounded."""
    made = model([node("Sub", "x z", "y")], {"x": [1000], "z": [1000]}, {"y": [1000]}, {})
    x = (1000 + RNG.standard_normal(1000)).astype(np.float32)
    far = compare(made, {"x": x, "z": np.zeros_like(x)}).rows[0].own["native"]
    near = compare(made, {"x": x, "z": x + np.float32(0.01)}).rows[0].own["native"]
    assert near.allowed > 1e4 * far.allowed


def test_bounds_grow_with_depth_and_precision() -> None:
    def limit(steps: float, roundoff: Roundoff = OWN_TYPES, products: bool = True) -> float:
        return own_limit(dtypes.float32, 100, 1.0, (1e-7, 1e-3), 0, Depth(steps, products), roundoff).norm

    assert limit(400) == pytest.approx(10 * limit(4), rel=1e-6)
    assert limit(4, ROUNDOFFS["bf16"]) > 1e3 * limit(4) > limit(4, ROUNDOFFS["fp64"]) / 1e4
    assert limit(4, ROUNDOFFS["bf16"], products=False) == limit(4)


def test_codes_may_be_off_by_one_as_often_as_ties_are_near() -> None:
    def limit(elements: int, flips: int = 0) -> Limit:
        return own_limit(dtypes.int8, elements, 1.0, (0.0, 0.0), flips, Depth(), OWN_TYPES)

    assert limit(10).different == 1
    assert 10 < limit(100_000).different < 100
    assert limit(10, flips=5).different > 5
    zero = np.zeros(1000, np.int8)
    one, two = zero.copy(), zero.copy()
    one[0], two[0] = 1, 2
    assert limit(1000).allows(measure(one, zero)) and not limit(1000).allows(measure(two, zero))
    places = own_limit(dtypes.int64, 1000, 1.0, (0.0, 0.0), 0, Depth(), OWN_TYPES)
    assert not places.allows(measure(one.astype(np.int64), zero.astype(np.int64)))


def test_a_misplaced_infinity_is_beyond_any_norm() -> None:
    errors = measure(np.array([1, np.inf], np.float32), np.array([1.0, 2.0]))
    assert not Limit(np.inf).allows(errors)
