"""Arm's units on registers of 256 and 512 bits under emulation: products of every form, epilogues, zero points,
windows, special values, each with the bits of the unit's meaning; some maps and reductions, with the bits of this
machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.native.target import Target, named
from backends.native.units import MatrixUnit, sve
from tests.backends.native.forced import Form
from tests.backends.native.harness import assert_same
from tests.emulation import arm_units
from tests.emulation.aarch64 import cpu_of, emulated
from tests.emulation.arm_units import FORMS, name_of

LENGTHS = (32, 64)
UNITS = [unit for length in LENGTHS for unit in sve.units(length)]
BYTE_UNITS = [unit for unit in UNITS if unit.a.bytes == 1]
DEALT = [(unit, FORMS[number % 4]) for number, unit in enumerate(sve.units(32))]
REST = [(unit, form) for unit in UNITS for form in FORMS if (unit, form) not in DEALT]
# One of every kind: tiles of bytes and of pairs, fours, pairs, single elements, wider, narrower.
KINDS = [unit for unit in UNITS if unit.name in {
    "sve_i8mm_int8_uint8", "sve_bfmmla_bfloat16", "sve_uint8", "sve_bf16_bfloat16", "sve_float32", "sve_float64",
    "sve_float16", "sve_bfloat16"
}]  # fmt: skip
QUICK = [unit for unit in KINDS if unit.n * unit.acc.bytes == LENGTHS[0]]


def machine(length: int, monkeypatch: pytest.MonkeyPatch) -> Target:
    """With vectors of `length` bytes and all there is, emulated from here on."""
    found = replace(named("armv8.4-sve256"), vector=length)
    emulated(monkeypatch, cpu_of(found))
    return found


@pytest.fixture
def target(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The machine of a unit."""
    return machine(unit.n * unit.acc.bytes, monkeypatch)


@pytest.mark.parametrize(("unit", "form"), DEALT, ids=name_of)
def test_products(unit: MatrixUnit, form: Form, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.products(unit, form, target, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "form"), REST, ids=name_of)
def test_products_of_every_form(unit: MatrixUnit, form: Form, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.products(unit, form, target, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", KINDS, ids=name_of)
def test_epilogues(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.epilogues(unit, target, monkeypatch)


@pytest.mark.parametrize("unit", QUICK, ids=name_of)
def test_blocks_of_k_resume(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.blocks_of_k(unit, target, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", BYTE_UNITS, ids=name_of)
def test_zero_points_from_sums(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.zero_points_from_sums(unit, BYTE_UNITS.index(unit) % 2 == 0, target, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", KINDS, ids=name_of)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.windows(unit, channels, target, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [unit for unit in KINDS if unit.acc.is_float], ids=name_of)
def test_special_values(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.special_values(unit, target, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
def test_every_function(length: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_units.every_function(machine(length, monkeypatch), rng)


@pytest.mark.parametrize("order", ["row", "column"])
def test_reductions_have_the_bits_of_this_machine(
    order: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = arm_units.rows_to_reduce(rng)
    here = arm_units.reductions(order, None, *rows)
    for length in LENGTHS:
        for found, expected in zip(arm_units.reductions(order, machine(length, monkeypatch), *rows), here, strict=True):
            assert_same(found, expected)
