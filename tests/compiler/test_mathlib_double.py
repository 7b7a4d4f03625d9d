"""Native float64 functions against mpmath: at most 2 ulp; and equality with emulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from compiler import dtypes
from compiler.evaluate import evaluate
from compiler.expr import COMPOSITES, apply, arg
from compiler.mathlib.reference import FUNCTIONS
from tests.backends.native.elementwise import Elementwise

CONTEXT = mpmath.mp.clone()
CONTEXT.prec = 160
LIMIT = 2.0


def periodic(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """With enough digits to reduce any float64 angle."""

    def value(x: Any) -> Any:
        with CONTEXT.workprec(1300 if abs(x) > 1e5 else 200):
            return +function(x)

    return value


# The true function, and the open interval where it is finite, real and not a rounded constant.
TRUTH: dict[str, tuple[Callable[..., Any], float, float]] = {
    "exp": (CONTEXT.exp, -745.0, 709.7),
    "exp2": (lambda x: CONTEXT.mpf(2) ** x, -1074.5, 1023.99),
    "expm1": (CONTEXT.expm1, -60.0, 709.7),
    "log": (CONTEXT.log, 0.0, math.inf),
    "log2": (lambda x: CONTEXT.log(x) / CONTEXT.log(2), 0.0, math.inf),
    "log10": (CONTEXT.log10, 0.0, math.inf),
    "log1p": (CONTEXT.log1p, -1.0, math.inf),
    "sin": (periodic(CONTEXT.sin), -math.inf, math.inf),
    "cos": (periodic(CONTEXT.cos), -math.inf, math.inf),
    "tan": (periodic(CONTEXT.tan), -math.inf, math.inf),
    "asin": (CONTEXT.asin, -1.0, 1.0),
    "acos": (CONTEXT.acos, -1.0, 1.0),
    "atan": (CONTEXT.atan, -math.inf, math.inf),
    "sinh": (CONTEXT.sinh, -710.0, 710.0),
    "cosh": (CONTEXT.cosh, -710.0, 710.0),
    "tanh": (CONTEXT.tanh, -25.0, 25.0),
    "asinh": (CONTEXT.asinh, -math.inf, math.inf),
    "acosh": (CONTEXT.acosh, 1.0, math.inf),
    "atanh": (CONTEXT.atanh, -1.0, 1.0),
    "erf": (CONTEXT.erf, -8.0, 8.0),
    "erfc": (CONTEXT.erfc, -8.0, 27.2),
    "normcdf": (lambda x: CONTEXT.erfc(-x / CONTEXT.sqrt(2)) / 2, -38.4, 9.0),
    "sigmoid": (lambda x: 1 / (1 + CONTEXT.exp(-x)), -745.0, 40.0),
    "rsqrt": (lambda x: 1 / CONTEXT.sqrt(x), 0.0, math.inf),
    "cbrt": (lambda x: CONTEXT.sign(x) * CONTEXT.cbrt(abs(x)), -math.inf, math.inf),
}


def error(got: float, exact: Any) -> float:
    """|got - exact| in ulps of the rounded exact value."""
    rounded = float(exact)
    if not math.isfinite(got) or math.isinf(rounded):
        return 0.0 if got == rounded else math.inf
    return float(abs(CONTEXT.mpf(got) - exact) / math.ulp(rounded))


def points(low: float, high: float, count: int = 240) -> np.ndarray:
    """Numbers of all exponents and of the usual sizes, near 1, and spread over the interval."""
    rng = np.random.default_rng(3)
    wild = np.ldexp(rng.uniform(1, 2, count), rng.integers(-1074, 1024, count))
    common = np.ldexp(rng.uniform(1, 2, 2 * count), rng.integers(-12, 11, 2 * count))
    close = 1 + np.ldexp(rng.uniform(-1, 1, count), rng.integers(-52, 0, count))
    spread = rng.uniform(max(low, -800.0), min(high, 800.0), 3 * count)
    found = np.concatenate([wild, common, close, spread]) * np.where(rng.integers(0, 2, 7 * count), 1, -1)
    found = np.concatenate([found, np.arange(1, 20) * (math.pi / 4)])
    return found[(found > low) & (found < high)]


@pytest.mark.parametrize("name", TRUTH)
def test_two_ulp(name: str) -> None:
    function, low, high = TRUTH[name]
    x = points(low, high)
    got = Elementwise(apply(name, arg(0, dtypes.float64)), 8)(x)
    worst, where = max(
        (error(float(g), function(CONTEXT.mpf(float(v)))), float(v)) for g, v in zip(got, x, strict=True)
    )
    assert worst <= LIMIT, f"{worst:.3f} ulp at {where!r}"


@pytest.mark.parametrize("name", TRUTH)
def test_special_values_as_numpy(name: str) -> None:
    edges = [0.0, 1.0, 0.5, 2.0, 5e-324, 2.0**-1022, 1e308, math.inf, math.nan]
    x = np.array([*edges, *(-v for v in edges)])
    got = Elementwise(apply(name, arg(0, dtypes.float64)), 8)(x)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](x)
    np.testing.assert_allclose(got, expected, rtol=1e-15, atol=0)
    zero = got == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


@pytest.mark.parametrize("name", COMPOSITES)
def test_native_equals_emulation(name: str) -> None:
    x = np.concatenate([points(-math.inf, math.inf), [0.0, -0.0, math.inf, -math.inf, math.nan]])
    operands = (x, np.random.default_rng(4).permutation(x))[: COMPOSITES[name]]
    expr = apply(name, *(arg(i, dtypes.float64) for i in range(len(operands))))
    (emulated,) = evaluate([expr], lambda leaf: operands[leaf.value], "emulate")
    np.testing.assert_array_equal(Elementwise(expr, 8)(*operands), emulated)


def power_points() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [np.exp2(rng.uniform(-30, 30, 600)), 1 + np.ldexp(rng.uniform(-1, 1, 400), rng.integers(-40, 0, 400))]
    )
    room = 1070.0 / np.maximum(np.abs(np.log2(x)), 1e-9)
    return x, rng.uniform(-1, 1, x.size) * np.minimum(room, 1e9)


def test_pow_two_ulp() -> None:
    x, y = power_points()
    got = Elementwise(apply("pow", arg(0, dtypes.float64), arg(1, dtypes.float64)), 8)(x, y)
    errors = [
        error(float(g), CONTEXT.mpf(a) ** CONTEXT.mpf(b)) for g, a, b in zip(got, x.tolist(), y.tolist(), strict=True)
    ]
    worst = int(np.argmax(errors))
    assert errors[worst] <= LIMIT, f"{errors[worst]:.3f} ulp at {x[worst]!r} ** {y[worst]!r}"


@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_special_pairs_as_numpy(name: str) -> None:
    values = [0.0, 0.5, 1.0, 2.0, 3.0, 2.5, 2.0**53 - 1, 2.0**53, 5e-324, 1e-308, 1e308, math.inf, math.nan]
    a, b = (g.ravel() for g in np.meshgrid([*values, *(-v for v in values)], [*values, *(-v for v in values)]))
    got = Elementwise(apply(name, arg(0, dtypes.float64), arg(1, dtypes.float64)), 8)(a, b)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](a, b)
    np.testing.assert_allclose(got, expected, rtol=5e-16, atol=0)
    zero = got == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


def test_atan2_two_ulp() -> None:
    rng = np.random.default_rng(6)
    y, x = (np.ldexp(rng.uniform(-2, 2, 900), rng.integers(-30, 30, 900)) for _ in range(2))
    got = Elementwise(apply("atan2", arg(0, dtypes.float64), arg(1, dtypes.float64)), 8)(y, x)
    errors = [
        error(float(g), CONTEXT.atan2(CONTEXT.mpf(a), CONTEXT.mpf(b)))
        for g, a, b in zip(got, y.tolist(), x.tolist(), strict=True)
    ]
    assert max(errors) <= LIMIT
