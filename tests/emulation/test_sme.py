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
from tests.emulation import aarch64_install
from tests.emulation.aarch64 import CPU, Processor, processor

FORMS = (FRESH, PACKED, TRANSPOSED, SCATTERED)
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


def products(unit: MatrixUnit, form: Form) -> None:
    """Of all shapes, by one kernel."""
    for m, n, k in shapes(unit):
        a, b, operands = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b), form.operands(unit, m, n)
        found = form.run(unit, a, b, operands, target=target_of(unit), threads=2)
        for value, expected in zip(found, form.expected(unit, a, b, operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("unit", cases(NAMES, NAMES), indirect=True)
def test_products(unit: MatrixUnit) -> None:
    products(unit, FORMS[NAMES.index(unit.name.split("_", 1)[1]) % 4])


OTHERS = [(16, "float32"), (32, "float64"), (128, "bfloat16"), (256, "uint8_int8")]


@pytest.mark.parametrize(
    "unit", [sme.units(w)[NAMES.index(name)] for w, name in OTHERS], indirect=True, ids=map(str, OTHERS)
)
def test_products_of_other_lengths(unit: MatrixUnit) -> None:
    products(unit, FRESH if unit.n < 16 else PACKED)


@pytest.mark.units
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("unit", cases(NAMES), indirect=True)
def test_products_of_every_form(unit: MatrixUnit, form: Form) -> None:
    products(unit, form)


@pytest.mark.parametrize("unit", cases(NAMES, KINDS), indirect=True)
def test_epilogues(unit: MatrixUnit) -> None:
    """All parts on a tile: bias, residual, activations, requantised bytes, every type."""
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
        found = multiply(a, b, spec=spec, out_orders=orders, target=target_of(unit), **options)
        for value, expected in zip(found, finished(outputs, defined(unit, a, b), operands), strict=True):
            assert_same(value, expected)


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
def test_zero_points_from_sums(unit: MatrixUnit) -> None:
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    for constant in (True, False):
        axis = "row" if constant else "column"  # of A
        spec = GemmSpec(*kinds, unit.acc, 0, axis, "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
        for m, n, k in shapes(unit)[1:6]:
            a, b, za, zb = draw((m, k), unit.a, axis), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
            options = {"operands": [za, zb], "epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True}
            expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
            assert_same(multiply(a, b, depth_known=False, target=target_of(unit), **options)[0], expected)


@pytest.mark.parametrize("unit", cases(NAMES, KINDS[:2]), indirect=True)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int) -> None:
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    padded = np.zeros((2, 8, 7, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), params=params, target=target_of(unit))[0]
    assert_same(found, defined(unit, columns, b))


@pytest.mark.parametrize("unit", cases(FLOATS, FLOATS), indirect=True)
def test_special_values(unit: MatrixUnit) -> None:
    for share in (0.02, 0.3):
        a, b = special((9, 7), unit.a, share), special((7, 2 * unit.n + 1), unit.b, share)
        operands = PACKED.neutral(unit, 9, 2 * unit.n + 1)
        expected = PACKED.expected(unit, a, b, operands)[0]
        assert_same(PACKED.run(unit, a, b, operands, target=target_of(unit))[0], expected)


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
