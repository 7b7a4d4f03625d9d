"""The tile units through the whole GEMM engine, executed instruction by instruction by the trap: their bits are those
of `emulate`, their products as many as the shape needs, and nothing outside operands and scratch is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.native import target as machine_target
from backends.native.target import Target, host
from backends.native.units import MatrixUnit
from backends.native.units import amx as tiles
from compiler.dtypes import uint8
from tests.backends.native.forced import Form, defined, draw, use
from tests.backends.native.harness import assert_same
from tests.emulation.amx import Emulator

FEATURES = frozenset(feature for unit in tiles.UNITS for feature in unit.requires)
BF16, FP16, *INT8 = tiles.UNITS
ONE_EACH = (BF16, FP16, INT8[0])
PRODUCTS = {BF16.name: "TDPBF16PS", FP16.name: "TDPFP16PS"} | {
    unit.name: f"TDPB{'SU'[unit.a == uint8]}{'SU'[unit.b == uint8]}D" for unit in INT8
}

every_unit = pytest.mark.parametrize("unit", tiles.UNITS, ids=lambda unit: unit.name)
one_each = pytest.mark.parametrize("unit", ONE_EACH, ids=lambda unit: unit.name)


@pytest.fixture
def machine(amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> Target:
    """This machine with tiles."""
    with_tiles = replace(host(), features=host().features | FEATURES)
    monkeypatch.setattr(machine_target, "host", lambda: with_tiles)
    return with_tiles


def needed(m: int, n: int, k: int, unit: MatrixUnit) -> int:
    """Products of tiles."""
    return -(-m // unit.m) * -(-n // unit.n) * -(-k // unit.k)


PLAIN = Form("row", "row", constant=True)


@every_unit
def test_every_tail_and_every_pair_of_signs(
    unit: MatrixUnit, machine: Target, amx: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, unit)
    for m, n, k in ((5, 1, 1), (16, 16, unit.k), (17, 33, unit.k + 1), (32, 32, 2 * unit.k), (33, 48, unit.k - 1),
                    (31, 65, 3 * unit.k + 5), (48, 31, 70)):  # fmt: skip
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        amx.reset()
        found = PLAIN.run(unit, a, b, [], target=machine)[0]
        assert_same(found, defined(unit, a, b))
        counts = amx.counters()
        assert counts[PRODUCTS[unit.name]] == needed(m, n, k, unit), (m, n, k)
        assert sum(counts[name] for name in PRODUCTS.values()) == counts[PRODUCTS[unit.name]]
        assert amx.configured_threads == 0
