"""SME under emulation: products of every form, epilogues, zero points, windows, special values, each with the bits of
the unit's meaning, with vectors of streaming mode of several lengths."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from backends.native import gemm
from backends.native.blocking import Blocking, blocking
from backends.native.candidates import Problem
from backends.native.target import Target, named
from backends.native.units import MatrixUnit, sme, sme2
from compiler import dtypes
from compiler.expr import COMPOSITES, apply, arg, cast
from tests.backends.native import harness
from tests.backends.native.forced import (
    FRESH,
    PACKED,
    TRANSPOSED,
    Form,
    defined,
    draw,
    finished,
    use,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply
from tests.emulation import aarch64_install, arm_units
from tests.emulation.aarch64 import CPU, Processor, processor
from tests.emulation.arm_units import FORMS

USUAL = 64  # bytes of a vector
NAMES = tuple(unit.name.split("_", 1)[1] for unit in sme.units(USUAL))
BYTES = tuple(name for name in NAMES if "int8" in name)
FLOATS = tuple(name for name in NAMES if name not in BYTES)
KINDS = ("float32", "float64", "bfloat16", "uint8_int8")
LONG = pytest.mark.units


def cases(names: Collection[str], quick: Sequence[str] = ()) -> list[ParameterSet]:
    """Units of both versions at every length of vectors; all but the `quick` ones at the usual length, and one of
    the second version, are for `make test-units`."""
    found = []
    for version, width in itertools.product((sme, sme2), sme.WIDTHS):
        for name, unit in zip(NAMES, version.units(width), strict=True):
            few = quick if version is sme else quick[:1]
            marks = () if width == USUAL and name in few else LONG
            if name in names:
                found.append(pytest.param(unit, id=f"{unit.name}-{8 * width}", marks=marks))
    return found


@pytest.fixture
def unit(request: pytest.FixtureRequest, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> MatrixUnit:
    """The unit of that parameter, taken by the engine, on a processor with vectors of its length; half of them without
    SVE, where QEMU knows such. Skips the second version where it does not."""
    found: MatrixUnit = request.param
    length, old = target_of(found).streaming, aarch64_install.version(aarch64_install.emulator() or "") < 11
    if old and found.isa == "sme2":
        pytest.skip("needs qemu-aarch64 of version 11 or newer: `make emulators`")
    cpu = CPU.replace(f"length={USUAL}", f"length={length}") + ("" if old or length in (32, 128) else ",sve=off")
    monkeypatch.setattr(harness, "execute", processor(cpu).execute)
    use(monkeypatch, found)
    return found


def target_of(unit: MatrixUnit) -> Target:
    return replace(named("armv9-sme2" if unit.isa == "sme2" else "armv9-sme"), streaming=unit.n * unit.acc.bytes)


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


def products(unit: MatrixUnit, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.products(unit, form, target_of(unit), monkeypatch, shapes(unit))


@pytest.mark.parametrize("unit", cases(NAMES, NAMES), indirect=True)
def test_products(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    products(unit, FORMS[NAMES.index(unit.name.split("_", 1)[1]) % 4], monkeypatch)


OTHERS = [(16, "float32"), (32, "float64"), (128, "bfloat16"), (256, "uint8_int8")]


@pytest.mark.parametrize(
    "unit", [sme.units(w)[NAMES.index(name)] for w, name in OTHERS], indirect=True, ids=map(str, OTHERS)
)
def test_products_of_other_lengths(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    products(unit, FRESH if unit.n < 16 else PACKED, monkeypatch)


@pytest.mark.units
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("unit", cases(NAMES), indirect=True)
def test_products_of_every_form(unit: MatrixUnit, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    products(unit, form, monkeypatch)


@pytest.mark.parametrize("unit", cases(NAMES, KINDS), indirect=True)
def test_epilogues(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.epilogues(unit, target_of(unit), monkeypatch, 2 * unit.m + 1, 4)


@pytest.mark.parametrize("unit", cases(NAMES, KINDS), indirect=True)
def test_blocks_of_k_resume(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """From tiles that earlier ones left, of one panel or of all."""
    shapes = ((unit.m + 2, 2 * unit.n - 1, 50), (5 * unit.m + 1, 4 * unit.n + 3, 48))
    for by_slabs, (m, n, k) in zip((False, True), shapes, strict=True):
        cut = Blocking(4 * unit.m, 4 * unit.n, 2 * unit.m, 16, 1, True, True, by_slabs)
        monkeypatch.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        for form in (PACKED, FRESH):
            operands = form.neutral(unit, m, n)
            assert_same(form.run(unit, a, b, operands, target=target_of(unit))[0], defined(unit, a, b))


@pytest.mark.parametrize("unit", cases(NAMES, ("float32",)), indirect=True)
@pytest.mark.parametrize("form", [PACKED, TRANSPOSED], ids=str)
def test_k_goes_outermost_where_l2_is_small(unit: MatrixUnit, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beyond a chain of products."""
    target, cuts = replace(target_of(unit), l2=16 << 10, l3=0), []

    def noted(*product: object) -> Blocking:
        cuts.append(blocking(*product))
        return cuts[-1]

    monkeypatch.setattr(gemm, "blocking", noted)
    for m, n, k in ((5 * unit.m + 1, 4 * unit.n + 3, 300), (unit.m, 4 * unit.n + 3, 8300)):
        a, b = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b)
        assert_same(form.run(unit, a, b, form.neutral(unit, m, n), target=target)[0], defined(unit, a, b))
    assert all(cut.by_slabs for cut in cuts) and {cut.depth < 300 for cut in cuts} == {True}


@pytest.mark.parametrize("unit", cases(FLOATS[:1], FLOATS[:1]), indirect=True)
def test_cuts_that_tuning_knows_keep_every_panel(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one block of rows is all there is: none is packed once the mode is entered."""

    def as_choice(*product: object) -> Blocking:
        problem = Problem(*product)
        return problem.cut(problem.choice_of(blocking(*product)))

    monkeypatch.setattr(gemm, "blocking", as_choice)
    a, b = draw((unit.m + 4, 9), unit.a), draw((9, 4 * unit.n + 6), unit.b)
    assert_same(multiply(a, b, target=target_of(unit))[0], defined(unit, a, b))


@pytest.mark.parametrize("unit", cases(BYTES, BYTES[1:3]), indirect=True)
def test_zero_points_from_sums(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in (True, False):
        arm_units.zero_points_from_sums(unit, constant, target_of(unit), monkeypatch, shapes(unit))


@pytest.mark.parametrize("unit", cases(NAMES, KINDS[:2]), indirect=True)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.windows(unit, channels, target_of(unit), monkeypatch)


@pytest.mark.parametrize("unit", cases(FLOATS, FLOATS), indirect=True)
def test_special_values(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.special_values(unit, target_of(unit), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", cases(FLOATS[:1], FLOATS[:1]), indirect=True)
def test_every_function_in_streaming_mode(unit: MatrixUnit, rng: np.random.Generator) -> None:
    """The rare sides of functions too, in whole vectors and in tails."""
    m, n = 5, 2 * unit.n + 3
    usual, extreme = rng.standard_normal(m * n - 40) * 8, np.exp(rng.standard_normal(40) * 30)
    x = rng.permutation(np.concatenate([usual, extreme]).astype(np.float32)).reshape(m, n)
    one = np.ones((m, 1), np.float32)
    for name, count in COMPOSITES.items():
        expr = apply(name, *(arg(i, dtypes.float32) for i in (1, 2)[:count])) + arg(0, dtypes.float32)
        operands, nothing = [x, x[::-1].copy()][:count], np.zeros((1, n), np.float32)
        found = multiply(one, nothing, operands=operands, epilogue=(expr,), constant=True, target=target_of(unit))
        assert_same(found[0], finished((expr,), np.zeros((m, n), np.float32), operands)[0])


@pytest.mark.parametrize("unit", cases(FLOATS[:1], FLOATS[:1]), indirect=True)
def test_rounding_to_bfloat(unit: MatrixUnit, rng: np.random.Generator) -> None:
    """By an instruction, of everything FP32 holds: denormals, ties, infinities, NaNs, what rounds up to infinity."""
    m, n = 2 * unit.m + 1, 4 * unit.n + 3
    bits = rng.integers(0, 1 << 32, (m, n), np.uint32)
    bits[0::3] &= 0x807F_FFFF
    bits[1::3, ::2] = bits[1::3, ::2] & 0xFFFF_0000 | 0x8000
    bits[2::3, ::4] |= 0x7F80_0000
    bits[2::3, 1::4] = 0x7F7F_FFFF
    x = bits.view(np.float32)
    expr, one = cast(arg(1, dtypes.float32), dtypes.bfloat16), np.ones((m, 1), np.float32)
    found = multiply(one, np.zeros((1, n), np.float32), operands=[x], epilogue=(expr,), constant=True,
                     target=target_of(unit))  # fmt: skip
    (expected,) = finished((expr,), np.zeros((m, n), np.float32), [x])
    assert np.isnan(expected.astype(np.float32)).any() and np.isinf(expected.astype(np.float32)).any()
    assert_same(found[0], expected)
