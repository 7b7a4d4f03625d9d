"""Code for Arm's units, generated but not run (tests/emulation runs it): what inner loops are made of, which units
targets choose, and what Linux' words about a core mean."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from llvmlite import ir

from backends.native import arm_features, gemm, units
from backends.native.jit import optimized, target_machine
from backends.native.target import Target, named
from backends.native.units import MatrixUnit, generic, neon
from compiler import dtypes
from compiler.kernels import GemmSpec, KernelCall, View
from tests.backends.native.forced import use

PRODUCTS = {
    "fmla", "mla", "sdot", "udot", "smmla", "ummla", "usmmla", "bfmlalb", "bfmlalt"
}  # fmt: skip


def inner_loop(unit: MatrixUnit, target: Target) -> list[str]:
    """The instructions of the loop with most products, of a kernel for 16 x 96 results and 64 deep."""
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, (), (), (), ("unit",))
    a = View("a", unit.a, (16, 64), (64, 1))
    b = View("b", unit.b, (64, 96), (96, 1))
    c = View("c", unit.acc, (16, 96), (96, 1))
    kernel = gemm.select(KernelCall(spec, (a, b), (c,)), target)
    module = ir.Module(kernel.name)
    kernel.emit(module)
    code = target_machine(target).emit_assembly(optimized(module, target, kernel.passes))
    loops = re.findall(r"^(\.LBB\w+):[^\n]*\n((?:\t[^\n]*\n)*?)\tb\.\w+\t\1$", code, re.MULTILINE)
    bodies = [re.sub(r"^\t\.[^\n]*\n", "", body, flags=re.MULTILINE).splitlines() for _, body in loops]
    return max(bodies, key=lambda lines: sum(line.split()[0] in PRODUCTS for line in lines))


def counted(lines: list[str]) -> Counter[str]:
    return Counter(line.split()[0] for line in lines)


# Products by lane, and what else a k-step takes: widening and spreading, none of which the others need.
MIX = {
    "i8mm": {"smmla", "ummla", "usmmla"}, "dotprod": {"sdot", "udot"}, "bf16": {"bfmlalb", "bfmlalt"},
    "neon": {"fmla", "mla"},
}  # fmt: skip
WIDENING = {"neon_float16": {"fcvtl": 3}, "neon_bfloat16": {"and": 2, "shl": 2}}
BY_LANE = r"\t(fmla|bfmlal[bt]|[su]dot)\tv\d+\.\w+, v\d+\.\w+, v\d+\.\w+\[[01]\]$"


@pytest.mark.parametrize("unit", neon.UNITS, ids=lambda unit: unit.name)
def test_inner_loops_are_products_and_loads(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    lines = inner_loop(unit, named("armv8.6"))
    found = counted(lines)
    grid = unit.grids[0]
    registers = unit.m * unit.n * unit.acc.bytes // neon.VECTOR
    steps = unit.k if unit.acc.is_float else 1
    products = sum(found[name] for name in MIX[unit.isa])
    assert products == grid.rows * grid.columns * registers * steps
    assert not [line for line in lines if "[sp" in line], "spills"
    assert not found["dup"] and not found["fmov"] and not found["ins"]
    for name, count in WIDENING.get(unit.name, {}).items():
        assert found[name] == count
    if unit.acc.is_float or unit.isa == "dotprod":
        assert not found["ld1r"]
        assert sum(bool(re.match(BY_LANE, line)) for line in lines) == products


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=str)
def test_more_products_an_instruction_than_without(dtype: dtypes.DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Than the units for any machine have, whose registers are as wide."""
    share = {}
    for unit in (*neon.UNITS, *generic.units(neon.VECTOR)):
        if (unit.a, unit.acc) == (dtype, dtype):
            use(monkeypatch, unit)
            found = counted(inner_loop(unit, named("armv8.6")))
            share[unit.isa] = found["fmla"] / found.total()
    assert share["neon"] >= 0.5 > share["generic"]


def test_targets_take_the_best_they_have() -> None:
    byte, half = dtypes.int8, dtypes.bfloat16
    base, rich = named("aarch64"), named("armv8.6")
    assert units.select(rich, byte, byte, dtypes.int32)[0].isa == "i8mm"
    assert units.select(base, byte, byte, dtypes.int32)[0].isa == "neon"
    assert "dotprod needs dotprod" in units.select(base, byte, byte, dtypes.int32)[1]
    assert units.select(rich, half, half, dtypes.float32)[0].isa == "bf16"
    assert units.select(base, half, half, dtypes.float32)[0].isa == "neon"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0x8FF, 0, {"neon"}),  # Cortex-A72
        (0x119FFF, 0, {"neon", "fullfp16", "dotprod"}),  # Neoverse N1
        (0xEFFFFFFF, 1 << 13 | 1 << 14, {"neon", "fullfp16", "dotprod", "i8mm", "bf16"}),
        (0, 0, set()),
    ],
)
def test_what_linux_says(first: int, second: int, expected: set[str]) -> None:
    assert arm_features.features(first, second) == expected
    assert expected <= named("armv8.6").features
