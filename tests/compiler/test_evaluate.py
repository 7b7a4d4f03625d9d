"""The NumPy evaluator: exact fma, casts, double-precision truth, broadcasting."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from compiler import dtypes
from compiler.evaluate import convert, evaluate
from compiler.expr import COMPOSITES, apply, arg, cast, const, extent, index, select
from compiler.mathlib.exact import fma32, fma64, round_to_odd
from compiler.mathlib.reference import FUNCTIONS

X, Y = arg(0, dtypes.float32), arg(1, dtypes.float32)


def triples(dtype: type, bits: type) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Wild operands, heavy cancellation, and results that are denormal."""
    rng = np.random.default_rng(1)
    size = np.dtype(dtype).itemsize
    yield tuple(rng.integers(0, 256, 2000 * size, np.uint8).view(bits).view(dtype) for _ in range(3))  # type: ignore[misc]
    a, b = (rng.standard_normal(500).astype(dtype) for _ in range(2))
    yield a, b, -(a * b) * (1 + rng.integers(-3, 4, 500).astype(dtype) * np.finfo(dtype).eps)
    yield a, b, np.ldexp(a[::-1], rng.integers(-120, 120, 500).astype(np.int32))
    low = np.finfo(dtype).minexp // 2
    yield (
        np.ldexp(a, low),
        np.ldexp(b, low),
        np.finfo(dtype).smallest_subnormal * rng.integers(-9, 9, 500).astype(dtype),
    )


def rounded_fma(a: float, b: float, c: float, dtype: type) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return float(dtype(a) * dtype(b) + dtype(c))
    context = mpmath.mp.clone()
    context.prec = 4400
    value = context.mpf(exact.numerator) / exact.denominator
    # Rounded by hand: exponent of the result's unit, then to an integer, half to even.
    info = np.finfo(dtype)
    exponent = max(int(context.floor(context.log(abs(value), 2))), info.minexp) - info.nmant
    units = exact / Fraction(2) ** exponent
    return float(np.ldexp(float(round(units)), exponent))


@pytest.mark.parametrize(("fma", "dtype", "bits"), [(fma32, np.float32, np.uint32), (fma64, np.float64, np.uint64)])
def test_fma_rounds_once(fma: object, dtype: type, bits: type) -> None:
    with np.errstate(all="ignore"):
        for a, b, c in triples(dtype, bits):
            got = fma(a, b, c)  # type: ignore[operator]
            for i in range(0, a.size, 7):
                if not np.isfinite([a[i], b[i], c[i]]).all():
                    assert np.array_equal(got[i], a[i] * b[i] + c[i], equal_nan=True)
                elif np.isfinite(got[i]):
                    expected = rounded_fma(float(a[i]), float(b[i]), float(c[i]), dtype)
                    assert float(got[i]) == expected, (a[i], b[i], c[i])


def test_fma_of_zeros_and_infinities() -> None:
    for dtype, fma in ((np.float32, fma32), (np.float64, fma64)):
        a, b, c = np.array([[0.0, 1.0, -0.0], [np.inf, 1.0, -np.inf], [np.inf, 2.0, 1.0], [1e30, 1e30, 1.0]], dtype).T
        with np.errstate(all="ignore"):
            got = fma(a, b, c)
        assert got[0] == 0 and np.isnan(got[1]) and np.isinf(got[2])
        assert np.isinf(got[3]) == (dtype is np.float32)


def test_round_to_odd_makes_double_rounding_single() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(20_000)
    x[:100] = 1 + 2.0**-11 + np.ldexp(rng.uniform(-1, 1, 100), -45)
    np.testing.assert_array_equal(round_to_odd(x).astype(np.float16), x.astype(np.float16))
    specials = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e300])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(round_to_odd(specials)[:5], specials[:5].astype(np.float32))


@pytest.mark.parametrize(
    "target", [dtypes.int8, dtypes.uint8, dtypes.int32, dtypes.int64, dtypes.uint64, dtypes.int4], ids=str
)
def test_float_to_integer_saturates(target: dtypes.DType) -> None:
    low = -(1 << (target.bits - 1)) if target.kind == "int" else 0
    high = (1 << (target.bits - (target.kind == "int"))) - 1
    x = np.array([np.nan, np.inf, -np.inf, 2.9, -2.9, 1e30, -1e30])
    expected = [0, high, low, 2, max(-2, low), high, low]
    assert [int(v) for v in convert(x, dtypes.float64, target)] == expected


def test_other_casts() -> None:
    x = np.array([0.0, -0.0, 0.5, np.nan])
    np.testing.assert_array_equal(convert(x, dtypes.float64, dtypes.boolean), [False, False, True, True])
    wide = np.array([300, -1, 128])
    np.testing.assert_array_equal(convert(wide, dtypes.int64, dtypes.int8), np.array([44, -1, -128], np.int8))


def test_constants_are_zero_dimensional_and_operands_broadcast() -> None:
    column, row = np.arange(3, dtype=np.float32)[:, None], np.arange(4, dtype=np.float32)
    one, table = evaluate([const(1, dtypes.int8), X + Y * 2.0], lambda leaf: (column, row)[leaf.value])
    assert one.shape == () and one.dtype == np.int8
    np.testing.assert_array_equal(table, column + row * 2)


def test_every_kind_of_leaf_is_asked_for() -> None:
    asked = []

    def leaf(node: object) -> np.ndarray:
        asked.append(str(node))
        return np.array(2)

    evaluate([cast(index(1), dtypes.float32) / extent(dtypes.float32)], leaf)
    assert sorted(asked) == ["extent:float32", "index1:int64"]


def test_min_and_max_propagate_nan_from_either_side() -> None:
    x, y = np.array([1, np.nan, 2], np.float32), np.array([np.nan, 1, 1], np.float32)
    low, high = evaluate([apply("min", X, Y), apply("max", X, Y)], lambda leaf: (x, y)[leaf.value])
    np.testing.assert_array_equal(low, np.array([np.nan, np.nan, 1], np.float32))
    np.testing.assert_array_equal(high, np.array([np.nan, np.nan, 2], np.float32))


@pytest.mark.parametrize("name", COMPOSITES)
def test_truth_is_the_double_function_rounded_once(name: str) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0.01, 0.99, (2, 500)).astype(np.float32)
    expr = apply(name, *(X, Y)[: COMPOSITES[name]])
    (got,) = evaluate([expr], lambda leaf: (x, y)[leaf.value])
    wide = (x.astype(np.float64), y.astype(np.float64))[: COMPOSITES[name]]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(got, FUNCTIONS[name](*wide).astype(np.float32))


def test_truth_of_the_error_functions() -> None:
    context = mpmath.mp.clone()
    context.prec = 120
    x = np.concatenate([np.linspace(-6, 6, 101), np.linspace(-38, -6, 50)])
    exact = {
        "erf": context.erf,
        "erfc": context.erfc,
        "normcdf": lambda v: context.erfc(-v / context.sqrt(2)) / 2,
        "sigmoid": lambda v: 1 / (1 + context.exp(-v)),
    }
    for name, function in exact.items():
        expected = np.array([float(function(context.mpf(float(v)))) for v in x])
        np.testing.assert_allclose(FUNCTIONS[name](x), expected, rtol=2.0**-51, atol=0)


def test_select_takes_whole_operands() -> None:
    condition = apply("lt", X, Y)
    x, y = np.array([1, 5], np.float32), np.array([2, 2], np.float32)
    (got,) = evaluate([select(condition, X, Y)], lambda leaf: (x, y)[leaf.value], "emulate")
    np.testing.assert_array_equal(got, [1, 2])
