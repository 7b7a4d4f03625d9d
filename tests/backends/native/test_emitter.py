"""Native primitives, casts and memory access against the NumPy evaluator, bit for bit."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from compiler import dtypes
from compiler.dtypes import DType
from compiler.evaluate import evaluate
from compiler.expr import PRIMITIVES, Expr, apply, arg, bitcast, cast, const, select
from tests.backends.native.elementwise import Elementwise

FLOATS = (dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16)
INTEGERS = (
    dtypes.int64, dtypes.int32, dtypes.int16, dtypes.int8, dtypes.int4, dtypes.int2,
    dtypes.uint64, dtypes.uint32, dtypes.uint16, dtypes.uint8, dtypes.uint4, dtypes.uint2,
)  # fmt: skip
NUMBERS = (*FLOATS, *INTEGERS)
COUNT = 997
FLOAT_ONLY = ("fma", "sqrt", "floor", "ceil", "trunc", "rint", "copysign")
INTEGER_ONLY = ("and", "or", "xor", "not", "shl", "shr")


def samples(dtype: DType, seed: int, count: int = COUNT) -> np.ndarray:
    """Values of every magnitude, with the special ones among them."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "bool":
        return rng.integers(0, 2, count).astype(bool)
    if dtype.is_integer:
        width = np.dtype(f"{'i' if dtype.kind == 'int' else 'u'}{max(dtype.bits // 8, 1)}")
        bits = rng.integers(0, 256, count * width.itemsize, np.uint8).view(width)
        bits[::3] >>= rng.integers(0, dtype.bits, bits[::3].shape).astype(width)
        edges = np.array([0, 1, 2, (1 << dtype.bits) - 1, 1 << (dtype.bits - 1)], np.uint64).astype(width)
        bits[: 4 * edges.size : 4] = edges
        return rng.permutation(bits).astype(dtype.numpy)
    raw = np.dtype(f"u{dtype.bytes}")
    bits = rng.integers(0, 256, count * dtype.bytes, np.uint8).view(raw).view(dtype.numpy)
    near = (rng.standard_normal(count) * 40).astype(dtype.numpy)
    values = np.where(rng.integers(0, 2, count).astype(bool), bits, near)
    edges = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -2.5], np.float64)
    values[: 4 * edges.size : 4] = edges.astype(dtype.numpy)
    return rng.permutation(values)


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Bit equality, any NaN equal to any other."""
    assert actual.dtype == expected.dtype
    bits = np.dtype(f"u{actual.dtype.itemsize}")
    same = actual.view(bits) == np.ascontiguousarray(expected).view(bits)
    if actual.dtype.kind in "fV":
        with np.errstate(invalid="ignore"):
            same |= (actual != actual) & (expected != expected)
    wrong = np.flatnonzero(~same)
    assert not wrong.size, f"{wrong.size} differ, first at {wrong[:5]}: {actual[wrong[:5]]} for {expected[wrong[:5]]}"


def check(expr: Expr, arrays: dict[int, np.ndarray], lanes: int = 16) -> None:
    native = Elementwise(expr, lanes)(*(arrays[n] for n in sorted(arrays)))
    (expected,) = evaluate([expr], lambda leaf: arrays[leaf.value], "emulate")
    assert_same(native, np.broadcast_to(expected, native.shape))


def defined(op: str, dtype: DType) -> bool:
    """Whether a primitive is defined on a type."""
    return not ((dtype.is_float and op in INTEGER_ONLY) or (dtype.is_integer and op in FLOAT_ONLY))


CASES = [(op, t) for op, (_, rule) in PRIMITIVES.items() if rule in ("same", "bool") for t in NUMBERS if defined(op, t)]


@pytest.mark.parametrize(("op", "dtype"), CASES, ids=lambda value: str(value))
def test_primitive_equals_numpy(op: str, dtype: DType) -> None:
    count = PRIMITIVES[op][0]
    arrays = {n: samples(dtype, n) for n in range(count)}
    if op in ("shl", "shr"):
        arrays[1] = np.where(np.arange(COUNT) % 2, np.arange(COUNT) % dtype.bits, arrays[1].astype(np.int64)).astype(
            dtype.numpy
        )
    check(apply(op, *(arg(n, dtype) for n in range(count))), arrays)


@pytest.mark.parametrize("op", ["and", "or", "xor", "not", "eq", "ne", "lt", "min", "max"])
def test_bool(op: str) -> None:
    count = PRIMITIVES[op][0]
    arrays = {n: samples(dtypes.boolean, n) for n in range(count)}
    check(apply(op, *(arg(n, dtypes.boolean) for n in range(count))), arrays)


@pytest.mark.parametrize("source", [*NUMBERS, dtypes.boolean], ids=str)
def test_cast_to_every_type(source: DType) -> None:
    for target in (*NUMBERS, dtypes.boolean):
        check(cast(arg(0, source), target), {0: samples(source, 3)})


def test_cast_from_double_rounds_once() -> None:
    # Just above the tie between two bfloat16 (or float16) values, by less than float32 sees.
    values = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8 - 2.0**-40, 1 + 2.0**-11 + 2.0**-40, 65519.999999999])
    (up, down, half, large) = Elementwise(cast(arg(0, dtypes.float64), dtypes.bfloat16))(values).astype(float)
    assert (up, down) == (1 + 2.0**-7, 1.0) and half == 1.0 and large == 65536
    up, down, half, large = Elementwise(cast(arg(0, dtypes.float64), dtypes.float16))(values).astype(float)
    assert half == 1 + 2.0**-10 and large == 65504


@pytest.mark.parametrize(
    "pair",
    [("float32", "int32"), ("float64", "uint64"), ("bfloat16", "int16"), ("float16", "uint16"), ("int8", "uint8")],
)
def test_bitcast(pair: tuple[str, str]) -> None:
    for source, target in itertools.permutations(map(dtypes.named, pair)):
        values = samples(source, 5)
        assert_same(Elementwise(bitcast(arg(0, source), target))(values), values.view(target.numpy))


@pytest.mark.parametrize("lanes", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 16, 17, 101])
def test_lanes_and_tails(lanes: int, count: int) -> None:
    for dtype in (dtypes.float32, dtypes.bfloat16, dtypes.int8, dtypes.boolean):
        x, y = samples(dtype, 1)[:count], samples(dtype, 2)[:count]
        condition = apply("ne", arg(0, dtype), arg(1, dtype))
        check(select(condition, arg(0, dtype), arg(1, dtype)), {0: x, 1: y}, lanes)


def test_unlikely_is_a_select() -> None:
    x = arg(0, dtypes.float32)
    shared = x * 2.0
    rare = apply("sqrt", shared) + 1.0
    expr = apply("unlikely", apply("gt", x, const(3.0, x.dtype)), rare, shared) + apply("sqrt", shared)
    for limit in (1.0, 100.0):
        values = np.linspace(0, limit, 101, dtype=np.float32)
        check(expr, {0: values})


def test_constants_are_rounded_once() -> None:
    for dtype in FLOATS:
        (value,) = Elementwise(arg(0, dtype) + 0.1)(np.zeros(1, dtype.numpy))
        assert value == np.float64(0.1).astype(dtype.numpy)
    x = arg(0, dtypes.float32)
    for special in (np.inf, -np.inf, np.nan, -0.0, 1e-45, 1e300):
        with np.errstate(over="ignore"):
            assert_same(
                Elementwise(apply("copysign", const(special, x.dtype), x))(np.array([special], np.float32)),
                np.array([special], np.float32),
            )


def test_bfloat16_rounding_keeps_nan() -> None:
    nan = np.array([0x7F80_0001, 0xFFFF_FFFF, 0x7FFF_FFFF], np.uint32).view(np.float32)
    out = Elementwise(cast(arg(0, dtypes.float32), dtypes.bfloat16))(nan)
    assert out.dtype == ml_dtypes.bfloat16 and np.isnan(out.astype(np.float32)).all()
