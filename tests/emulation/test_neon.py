"""Arm's units on registers of 128 bits under emulation: products of every form, epilogues, zero points, windows,
special values, each with the bits of the unit's meaning, and those summed in order with those of this machine's units;
and some maps and reductions."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from backends.native.target import named
from backends.native.units import MatrixUnit, neon
from compiler import dtypes
from tests.backends.native.forced import Form, draw, use
from tests.backends.native.harness import assert_same, in_order
from tests.backends.native.products import multiply
from tests.emulation import arm_units
from tests.emulation.aarch64 import Processor
from tests.emulation.arm_units import FORMS, name_of

TARGET = named("armv8.6")
BYTE_UNITS = [unit for unit in neon.UNITS if unit.a.bytes == 1]
DEALT = [(unit, FORMS[number % 4]) for number, unit in enumerate(neon.UNITS)]
REST = [(unit, form) for unit in neon.UNITS for form in FORMS if (unit, form) not in DEALT]
# One of every kind: tiles, fours, pairs, single elements, wider, narrower.
KINDS = [unit for unit in neon.UNITS if unit.name in {
    "i8mm_int8_uint8", "dotprod_uint8", "bfmmla_bfloat16", "bf16_bfloat16", "neon_float32", "neon_float64",
    "neon_float16", "neon_bfloat16"
}]  # fmt: skip


@pytest.mark.parametrize(("unit", "form"), DEALT, ids=name_of)
def test_products(unit: MatrixUnit, form: Form, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.products(unit, form, TARGET, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "form"), REST, ids=name_of)
def test_products_of_every_form(
    unit: MatrixUnit, form: Form, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm_units.products(unit, form, TARGET, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [unit for unit in KINDS if unit.in_order], ids=name_of)
def test_the_bits_of_this_machines_unit(
    unit: MatrixUnit, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever that is; normal numbers, for some flush others. Sizes are known, so that tails are code."""
    a, b = draw((21, 45), unit.a), draw((45, 43), unit.b)
    here = multiply(a, b, constant=True, target=in_order())[0]
    request.getfixturevalue("aarch64")
    use(monkeypatch, unit)
    assert_same(multiply(a, b, constant=True, target=TARGET)[0], here)


@pytest.mark.parametrize("unit", KINDS, ids=name_of)
def test_epilogues(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.epilogues(unit, TARGET, monkeypatch)


@pytest.mark.parametrize("unit", KINDS, ids=name_of)
def test_blocks_of_k_resume(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.blocks_of_k(unit, TARGET, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", BYTE_UNITS, ids=name_of)
def test_zero_points_from_sums(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.zero_points_from_sums(unit, BYTE_UNITS.index(unit) % 2 == 0, TARGET, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", KINDS, ids=name_of)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.windows(unit, channels, TARGET, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [unit for unit in KINDS if unit.acc.is_float], ids=name_of)
def test_special_values(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.special_values(unit, TARGET, monkeypatch)


def test_pairs_keep_denormals(aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = np.float32(2.0**-130)
    a = np.array([[tiny, 1, 2.0**-70, tiny]], ml_dtypes.bfloat16)
    b = np.array([[1], [tiny], [2.0**-64], [2.0**8]], ml_dtypes.bfloat16)
    for unit in (unit for unit in neon.UNITS if unit.a == dtypes.bfloat16 and unit.in_order):
        use(monkeypatch, unit)
        expected = np.float32([[2 * tiny + np.float32(2.0**-134) + np.float32(2.0**-122)]])
        assert expected[0, 0] > 0
        assert_same(multiply(a, b, constant=True, target=TARGET)[0], expected)


def test_every_function(aarch64: Processor, rng: np.random.Generator) -> None:
    arm_units.every_function(TARGET, rng)


@pytest.mark.parametrize("order", ["row", "column"])
def test_reductions_have_the_bits_of_this_machine(
    order: str, rng: np.random.Generator, request: pytest.FixtureRequest
) -> None:
    rows = arm_units.rows_to_reduce(rng)
    here = arm_units.reductions(order, None, *rows)
    request.getfixturevalue("aarch64")
    for machine in (TARGET, replace(TARGET, features=frozenset({"neon"}))):
        for found, expected in zip(arm_units.reductions(order, machine, *rows), here, strict=True):
            assert_same(found, expected)
