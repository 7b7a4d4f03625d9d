"""Native float32 functions: at most 2 ulp over all exponents, special values, and equality with emulation."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import dtypes, mathlib
from compiler.evaluate import evaluate
from compiler.expr import COMPOSITES, LEAVES, PRIMITIVES, Expr, apply, arg, walk
from tests.backends.native.elementwise import Elementwise
from tests.compiler.ulp import VECTORISED, describe_worst, single_errors, strided_singles

UNARY = sorted(name for name, count in COMPOSITES.items() if count == 1)
LIMIT = 2.0


def unary(name: str) -> Expr:
    return apply(name, arg(0, dtypes.float32))


def truth_of(name: str, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return VECTORISED[name](x.astype(np.float64))


@pytest.mark.parametrize("name", UNARY)
def test_two_ulp(name: str) -> None:
    x = strided_singles(14321)
    got, truth = Elementwise(unary(name))(x), truth_of(name, x)
    errors = single_errors(got, truth)
    assert errors.max() <= LIMIT, describe_worst(x, got, truth, errors)


@pytest.mark.parametrize("name", UNARY)
def test_two_ulp_near_zero_and_one(name: str) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-9, 9, 200_000), 1 + rng.uniform(-1e-3, 1e-3, 20_000)]).astype(np.float32)
    got, truth = Elementwise(unary(name))(x), truth_of(name, x)
    errors = single_errors(got, truth)
    assert errors.max() <= LIMIT, describe_worst(x, got, truth, errors)


@pytest.mark.parametrize("name", UNARY)
def test_native_equals_emulation(name: str) -> None:
    x = np.concatenate([strided_singles(120_011), np.linspace(-12, 12, 20_001, dtype=np.float32)])
    native = Elementwise(unary(name))(x)
    (emulated,) = evaluate([unary(name)], lambda _: x, "emulate")
    np.testing.assert_array_equal(native, emulated)
    np.testing.assert_array_equal(np.signbit(native)[native == 0], np.signbit(emulated)[native == 0])


@pytest.mark.parametrize("name", ["erf", "tanh", "sin", "cos", "sigmoid", "normcdf"])
def test_bounded_functions_stay_in_bounds(name: str) -> None:
    x = strided_singles(50_021)
    got = Elementwise(unary(name))(x)
    assert np.nanmax(np.abs(got)) <= 1


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=str)
def test_narrow_types_round_once(name: str, dtype: dtypes.DType) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    expr = apply(name, arg(0, dtype))
    native = Elementwise(expr)(x)
    truth, emulated = (evaluate([expr], lambda _: x, mode)[0] for mode in ("truth", "emulate"))
    np.testing.assert_array_equal(native.astype(np.float32), emulated.astype(np.float32))
    # float32 within 2 ulp: the rounded result is off only where the truth is nearly a tie.
    with np.errstate(invalid="ignore"):
        differ = (native != truth) & ~(np.isnan(native.astype(np.float32)) & np.isnan(truth.astype(np.float32)))
        steps = native.view(np.int16)[differ].astype(int) - truth.view(np.int16)[differ]
    assert differ.mean() < 0.002 and np.abs(steps).max(initial=0) <= 1


def special_pairs() -> tuple[np.ndarray, np.ndarray]:
    values = [0.0, 0.5, 1.0, 2.0, 3.0, 2.5, 16777215.0, 16777216.0, 1e-45, 1e-38, 3e38, np.inf, np.nan]
    grid = np.array([*values, *(-v for v in values)], np.float32)
    a, b = np.meshgrid(grid, grid)
    return a.ravel(), b.ravel()


def random_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    wild = rng.integers(0, 1 << 32, (2, count), np.uint32).view(np.float32)
    tame = rng.standard_normal((2, count)).astype(np.float32) * 10
    powers = np.stack([np.exp2(rng.uniform(-20, 20, count)), rng.uniform(-8, 8, count)]).astype(np.float32)
    a, b = np.concatenate([wild, tame, powers], axis=1)
    return a, b


@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_two_operands(name: str) -> None:
    a, b = (np.concatenate(v) for v in zip(special_pairs(), random_pairs(100_000), strict=True))
    expr = apply(name, arg(0, dtypes.float32), arg(1, dtypes.float32))
    got = Elementwise(expr)(a, b)
    with np.errstate(all="ignore"):
        truth = VECTORISED[name](a.astype(np.float64), b.astype(np.float64))
    errors = single_errors(got, truth)
    assert errors.max() <= LIMIT, f"{b[errors.argmax()]} " + describe_worst(a, got, truth, errors)
    few = slice(0, 20_000)
    (emulated,) = evaluate([expr], lambda leaf: (a, b)[leaf.value][few], "emulate")
    np.testing.assert_array_equal(got[few], emulated)


@pytest.mark.parametrize("dtype", [dtypes.float64, dtypes.float32, dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("name", COMPOSITES)
def test_expansion_leaves_only_primitives(name: str, dtype: dtypes.DType) -> None:
    expanded = mathlib.expand(apply(name, *(arg(i, dtype) for i in range(COMPOSITES[name]))))
    assert expanded.dtype == dtype
    assert all(node.op in PRIMITIVES or node.op in LEAVES for node in walk(expanded))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", UNARY)
def test_every_float32(name: str) -> None:
    native, chunk = Elementwise(unary(name)), 1 << 22
    for start in range(0, 1 << 32, chunk):
        x = np.arange(start, start + chunk, dtype=np.uint64).astype(np.uint32).view(np.float32)
        got, truth = native(x), truth_of(name, x)
        errors = single_errors(got, truth)
        assert errors.max() <= LIMIT, describe_worst(x, got, truth, errors)
