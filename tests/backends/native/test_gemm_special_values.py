"""NaN, infinities, denormals, zeros of either sign, extreme integers, ties: through every unit this machine runs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.units import MatrixUnit
from compiler import dtypes
from compiler.dtypes import DType, bfloat16, float16
from compiler.expr import arg, cast
from compiler.kernels import UNIT, GemmSpec
from compiler.mathlib.exact import fma64
from tests.backends.native.forced import (
    DIRECT,
    FRESH,
    OF_BYTES,
    PACKED,
    RUN_HERE,
    Form,
    defined,
    name_of,
    use,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply

RNG = np.random.default_rng(20261130)
FLOATS = [unit for unit in DIRECT if unit.acc.is_float]
SINGLE = [unit for unit in FLOATS if unit.acc == dtypes.float32]


def special(shape: tuple[int, ...], dtype: DType, share: float = 0.5) -> np.ndarray:
    """Ordinary elements, and a `share` of them special."""
    info = ml_dtypes.finfo(dtype.numpy)
    tiny, least, most = float(info.tiny), float(info.smallest_subnormal), float(info.max)
    values = [np.nan, np.inf, -np.inf, 0.0, -0.0, least, -3 * least, tiny, -tiny / 2, most, -most, 1.0, tiny * 1.5]
    drawn = np.where(RNG.random(shape) < share, RNG.choice(values, shape), RNG.standard_normal(shape))
    with np.errstate(over="ignore"):
        return drawn.astype(dtype.numpy)


@pytest.mark.parametrize("unit", FLOATS, ids=name_of)
@pytest.mark.parametrize("form", [FRESH, PACKED], ids=str)
def test_special_floats(unit: MatrixUnit, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few special elements, so that not all is NaN, and many; in operands of the epilogue too."""
    use(monkeypatch, unit)
    blocks = Blocking(16, unit.grids[0].columns * unit.n, 8, 2 * unit.k, 1, True, True)
    for m, n, k in ((9, 2 * unit.n + 1, 7), (2, 9 * unit.n, 4)):
        for share in (0.02, 0.3):
            a, b = special((m, k), unit.a, share), special((k, n), unit.b, share)
            neutral = form.neutral(unit, m, n)
            drawn = [special(operand.shape, unit.acc) for operand in neutral]
            for operands in (neutral, drawn):
                expected = form.expected(unit, a, b, operands)[0]
                assert_same(form.run(unit, a, b, operands)[0], expected)
                with monkeypatch.context() as context:
                    context.setattr(gemm, "blocking", lambda *_: blocks)
                    assert_same(form.run(unit, a, b, operands)[0], expected)
            assert_same(form.expected(unit, a, b, neutral)[0], defined(unit, a, b))


@pytest.mark.parametrize("unit", FLOATS, ids=name_of)
def test_padding_of_a_last_group_and_panel_adds_nothing(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinities and NaNs beside padding: zeros times them would be NaN."""
    use(monkeypatch, unit)
    for value in (np.inf, np.nan, -0.0):
        a, b = np.full((3, 3), value, unit.a.numpy), np.ones((3, unit.n + 1), unit.b.numpy)
        operands = PACKED.operands(unit, 3, unit.n + 1)
        for form in (FRESH, PACKED):
            assert_same(form.run(unit, a, b, operands)[0], form.expected(unit, a, b, operands)[0])


@pytest.mark.parametrize("unit", [unit for unit in DIRECT if unit in OF_BYTES], ids=name_of)
def test_extreme_bytes(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of products that saturate in 16 bits, and sums that wrap around in 32."""
    use(monkeypatch, unit)
    n = unit.n + 1
    ends_a, ends_b = ([np.iinfo(kind.numpy).min, np.iinfo(kind.numpy).max] for kind in (unit.a, unit.b))
    for k in (3, 1029, 140_000):
        for low, high in ((0, 0), (0, 1), (1, 0), (1, 1)):
            a, b = np.full((2, k), ends_a[low], unit.a.numpy), np.full((k, n), ends_b[high], unit.b.numpy)
            a[1, ::2] = ends_a[1 - low]
            total = (a.astype(np.int64) @ b[:, :1].astype(np.int64)).astype(np.int32)
            for form in (FRESH, PACKED):
                assert_same(form.run(unit, a, b, form.neutral(unit, 2, n))[0], np.broadcast_to(total, (2, n)))


@pytest.mark.parametrize("unit", [u for u in DIRECT if u.a == u.acc and u.acc.is_integer], ids=name_of)
def test_wide_integers_wrap_around(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    limits = np.iinfo(unit.a.numpy)
    values = np.array([limits.min, limits.max, 0, 1], unit.a.numpy)
    a, b = RNG.choice(values, (9, 11)), RNG.choice(values, (11, unit.n + 1))
    operands = PACKED.operands(unit, 9, unit.n + 1)
    exact = (a.astype(object) @ b.astype(object)) % 2**unit.a.bits
    assert np.array_equal(exact, defined(unit, a, b).astype(object) % 2**unit.a.bits)
    for form in (FRESH, PACKED):
        assert_same(form.run(unit, a, b, operands)[0], form.expected(unit, a, b, operands)[0])


def halves(unit: MatrixUnit, lower: np.ndarray) -> np.ndarray:
    """FP32 values of every upper half with each of some lower halves."""
    return ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | lower.astype(np.uint32)).view(np.float32)


def convert(unit: MatrixUnit, values: np.ndarray, target: DType) -> np.ndarray:
    """`values` as an epilogue of one cast gives them, added to products of nothing but zeros."""
    epilogue = (cast(arg(0, unit.acc) + arg(1, unit.acc), target),)
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, epilogue, (unit.acc,), (UNIT,), (UNIT,))
    grid = values.reshape(-1, 512)
    a, b = np.zeros((len(grid), 1), unit.a.numpy), np.zeros((1, 512), unit.b.numpy)
    return multiply(a, b, operands=[grid], epilogue=epilogue, constant=True, spec=spec)[0].reshape(values.shape)


def nearest_even_bfloat(values: np.ndarray) -> np.ndarray:
    """The upper halves of FP32 values rounded to nearest even, in integers; NaNs as they are, but quiet."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)


@pytest.mark.parametrize("unit", SINGLE, ids=name_of)
def test_results_round_to_bfloat16(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """All upper halves with exact ties, their neighbours, and payloads of NaN that only lower halves hold."""
    use(monkeypatch, unit)
    values = halves(unit, np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xC000, 0xFFFE, 0xFFFF]))
    found = convert(unit, values, bfloat16)
    expected = nearest_even_bfloat(values)
    nan = np.isnan(values)
    assert np.isnan(found[nan].astype(np.float32)).all() and nan.sum() > 8 * 250
    bits = found.view(np.uint16)
    # -0 is +0 once it was added to a product of zeros.
    expected[values == 0] = 0
    assert np.array_equal(bits[~nan], expected[~nan])
    most = np.finfo(np.float32).max
    assert values[(values == most)].size and np.isinf(found[values == most].astype(np.float32)).all()


@pytest.mark.parametrize("unit", SINGLE, ids=name_of)
def test_results_round_to_float16(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """All float16 values, the ties between them and the neighbours of those; what overflows, NaN."""
    use(monkeypatch, unit)
    exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        above = np.nextafter(exact.astype(np.float16), np.float16(np.inf)).astype(np.float32)
        tie = np.where(np.isinf(above), np.float32(65520), (exact + above) / 2)
        columns = (exact, tie, np.nextafter(tie, np.float32(np.inf)), np.nextafter(tie, np.float32(-np.inf)))
        values = np.stack(columns, 1) + np.float32(0)
        expected = values.astype(np.float16)
    found = convert(unit, values, float16)
    assert_same(found, expected)
    ties = np.isfinite(tie) & (tie != exact) & (np.abs(tie) < 65504)
    assert (found[ties, 1].view(np.uint16) & 1 == 0).all()


def test_the_emulated_fma_of_a_product_that_overflows_and_an_infinity() -> None:
    huge = np.array([1e300])
    with np.errstate(all="ignore"):
        assert fma64(huge, huge, np.array([-np.inf])) == -np.inf


def test_every_combination_of_signs_is_met() -> None:
    assert {(unit.a, unit.b) for unit in OF_BYTES} == {(unit.a, unit.b) for unit in RUN_HERE if unit.a.bytes == 1}
