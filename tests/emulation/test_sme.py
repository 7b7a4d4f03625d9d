"""SME under emulation: products of every form, epilogues, zero points, windows, special values, each with the bits of
the unit's meaning, with vectors of streaming mode of several lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.target import Target, named
from backends.native.units import MatrixUnit, sme
from compiler import dtypes
from compiler.expr import COMPOSITES, apply, arg
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec
from tests.backends.native import harness
from tests.backends.native.forced import (
    FRESH,
    PACKED,
    SCATTERED,
    TRANSPOSED,
    Form,
    defined,
    draw,
    finished,
    use,
    zero_points,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply
from tests.backends.native.test_gemm_epilogues import parts
from tests.backends.native.test_gemm_special_values import special
from tests.emulation.aarch64 import CPU, Processor, processor

USUAL = 64
LENGTHS = (16, 32, 128)
FORMS = (FRESH, PACKED, TRANSPOSED, SCATTERED)
UNITS = sme.units(USUAL)


def target_of(length: int) -> Target:
    return replace(named("armv9-sme"), streaming=length)


TARGET = target_of(USUAL)


def name_of(value: object) -> str:
    return value.name if isinstance(value, MatrixUnit) else str(value)


def shapes(unit: MatrixUnit) -> tuple[tuple[int, int, int], ...]:
    """Every tail of tiles and grids, and of the depth."""
    m, n, k = unit.m, unit.n, unit.k
    return (
        (1, 1, 1),
        (m - 1, n + 1, k + 1),
        (m, 2 * n, 4 * k),
        (m + 1, 2 * n - 1, 3 * k - 1),
        (2 * m, 3 * n + 2, 7),
        (2 * m + 3, 4 * n + 1, 33),
        (5 * m - 2, n, 2),
        (3, 5, 0),
    )


def products(unit: MatrixUnit, form: Form, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all shapes, by one kernel."""
    use(monkeypatch, unit)
    for m, n, k in shapes(unit):
        a, b, operands = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b), form.operands(unit, m, n)
        found = form.run(unit, a, b, operands, target=target, threads=2)
        for value, expected in zip(found, form.expected(unit, a, b, operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_products(unit: MatrixUnit, form: Form, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    products(unit, form, TARGET, monkeypatch)


@pytest.fixture(params=LENGTHS, ids=lambda length: f"{8 * length} bits")
def length(request: pytest.FixtureRequest, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Another length of vectors, and a processor that has it."""
    other = processor(CPU.replace(f"length={USUAL}", f"length={request.param}"))
    monkeypatch.setattr(harness, "execute", other.execute)
    return request.param


@pytest.mark.parametrize("number", range(len(UNITS)))
def test_other_lengths(number: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    products(sme.units(length)[number], FORMS[(number + LENGTHS.index(length)) % 4], target_of(length), monkeypatch)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_epilogues(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts on a tile: bias, residual, activations, requantised bytes, every type."""
    use(monkeypatch, unit)
    outputs = parts(unit)
    real = unit.acc if unit.acc.is_float else dtypes.float32
    kinds, classes = (unit.acc,) * 3 + (real,), (UNIT, BROADCAST, UNIT, UNIT)
    outs = (GENERAL, *(UNIT,) * (len(outputs) - 1))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, outputs, kinds, classes, outs)
    orders = [(1, 0), *[None] * (len(outputs) - 1)]
    for m, n, k in ((1, unit.n - 1, 3), (2 * unit.m + 1, 4 * unit.n + 1, 2 * unit.k + 1)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = [draw((n,), unit.acc), draw((m, 1), unit.acc), draw((m, n), unit.acc), draw((n,), real)]
        options = {"operands": operands, "epilogue": outputs, "constant": True, "symbolic": True, "depth_known": False}
        found = multiply(a, b, spec=spec, out_orders=orders, target=TARGET, **options)
        for value, expected in zip(found, finished(outputs, defined(unit, a, b), operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_blocks_of_k_resume(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From tiles that earlier ones left."""
    use(monkeypatch, unit)
    cut = Blocking(4 * unit.m, 96, 2 * unit.m, 16, 1, True, True)
    monkeypatch.setattr(gemm, "blocking", lambda *_: cut)
    for m, n, k in ((unit.m + 2, 2 * unit.n - 1, 50), (5 * unit.m + 1, 4 * unit.n + 3, 48)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        for form in (PACKED, FRESH):
            operands = form.neutral(unit, m, n)
            assert_same(form.run(unit, a, b, operands, target=TARGET)[0], defined(unit, a, b))


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.acc.is_integer], ids=name_of)
def test_zero_points_from_sums(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    for constant in (True, False):
        spec = GemmSpec(*kinds, unit.acc, 0, "row", "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
        for m, n, k in shapes(unit)[1:6]:
            a, b, za, zb = draw((m, k), unit.a), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
            options = {"operands": [za, zb], "epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True}
            expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
            assert_same(multiply(a, b, depth_known=False, target=TARGET, **options)[0], expected)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    padded = np.zeros((2, 8, 7, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), params=params, target=TARGET)[0]
    assert_same(found, defined(unit, columns, b))


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.acc.is_float], ids=name_of)
def test_special_values(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for share in (0.02, 0.3):
        a, b = special((9, 7), unit.a, share), special((7, 2 * unit.n + 1), unit.b, share)
        operands = PACKED.neutral(unit, 9, 2 * unit.n + 1)
        expected = PACKED.expected(unit, a, b, operands)[0]
        assert_same(PACKED.run(unit, a, b, operands, target=TARGET)[0], expected)


@pytest.mark.parametrize("lanes", [16, 64])
def test_every_function_in_streaming_mode(
    lanes: int, rng: np.random.Generator, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rare sides of functions too, in whole vectors and in tails."""
    unit = UNITS[0]
    use(monkeypatch, unit)
    m, n = 5, lanes + 3
    x = np.concatenate([rng.standard_normal(m * n - 40) * 8, np.exp(rng.standard_normal(40) * 30)]).astype(np.float32)
    x = rng.permutation(x).reshape(m, n)
    one = np.ones((m, 1), np.float32)
    for name, count in COMPOSITES.items():
        expr = apply(name, *(arg(i, dtypes.float32) for i in (1, 2)[:count])) + arg(0, dtypes.float32)
        operands = [x, x[::-1].copy()][:count]
        found = multiply(one, np.zeros((1, n), np.float32), operands=operands, epilogue=(expr,), constant=True,
                         target=TARGET)  # fmt: skip
        assert_same(found[0], finished((expr,), np.zeros((m, n), np.float32), operands)[0])
