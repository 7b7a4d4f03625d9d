"""Code for Arm's units, generated but not run (tests/emulation runs it): what inner loops are made of, which units
targets choose, how machines are held to families, and what Linux' words about a core mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from llvmlite import ir

from backends.native import arm_features, gemm, units
from backends.native.jit import optimized, target_machine
from backends.native.target import Target, held_to_families, named
from backends.native.units import MatrixUnit, generic, neon, sve
from compiler import dtypes
from compiler.dims import symbol
from compiler.kernels import GemmSpec, KernelCall, View
from tests.backends.native.forced import use

# Products by family, and what else a k-step takes: widening, which few need.
MIX = {
    "i8mm": {"smmla", "ummla", "usmmla"}, "dotprod": {"sdot", "udot"}, "bf16": {"bfmlalb", "bfmlalt"},
    "bfmmla": {"bfmmla"}, "neon": {"fmla", "mla"}, "sve": {"fmla", "mla", "sdot", "udot"},
}  # fmt: skip
PRODUCTS = set().union(*MIX.values())
WIDENING = {
    "neon_float16": {"fcvtl": 3}, "neon_bfloat16": {"and": 2, "shl": 2},
    "sve_float16": {"fcvt": 3}, "sve_bfloat16": {"and": 2, "lsl": 2},
}  # fmt: skip
BY_LANE = r"\t(fmla|bfmlal[bt]|[su]dot)\tv\d+\.\w+, v\d+\.\w+, v\d+\.\w+\[[01]\]$"
WIDE = named("armv8.4-sve256")


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


def clean_products(unit: MatrixUnit, lines: list[str]) -> int:
    """How many products there are, as many as the grid asks for and without a spill."""
    found = counted(lines)
    grid = unit.grids[0]
    vector = unit.n * unit.acc.bytes
    registers = unit.m * unit.n * unit.acc.bytes // vector
    steps = unit.k if unit.acc.is_float and unit.m == 1 else 1
    products = sum(found[name] for name in MIX[unit.isa.removeprefix("sve_")])
    assert products == grid.rows * grid.columns * registers * steps
    assert not [line for line in lines if "[sp" in line], "spills"
    assert not found["dup"] and not found["fmov"] and not found["ins"] and not found["mov"]
    for name, count in WIDENING.get(unit.name, {}).items():
        assert found[name] == count
    return products


@pytest.mark.parametrize("unit", neon.UNITS, ids=lambda unit: unit.name)
def test_inner_loops_are_products_and_loads(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    lines = inner_loop(unit, named("armv8.6"))
    products = clean_products(unit, lines)
    if unit.m == 1 and (unit.acc.is_float or unit.isa == "dotprod"):
        assert not counted(lines)["ld1r"]
        assert sum(bool(re.match(BY_LANE, line)) for line in lines) == products


@pytest.mark.parametrize(
    "unit",
    [
        unit
        if unit in sve.units(32) and (unit.a.is_float or unit.a == unit.b == dtypes.int8)
        else pytest.param(unit, marks=pytest.mark.slow)
        for unit in (*sve.units(32), *sve.units(64))
    ],
    ids=lambda unit: f"{unit.name}x{unit.n}",
)
def test_longer_registers_load_elements_everywhere(
    unit: MatrixUnit, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load for every register of B and every element, pair, four or tile of A: nothing spreads them afterwards."""
    use(monkeypatch, unit)
    lines = inner_loop(unit, replace(WIDE, vector=unit.n * unit.acc.bytes))
    clean_products(unit, lines)
    mnemonics = [line.split()[0] for line in lines]
    rows, columns = unit.grids[0].rows, unit.grids[0].columns
    assert sum(name.startswith("ld1r") for name in mnemonics) == rows * (unit.k if unit.left == dtypes.float32 else 1)
    assert sum(name in ("ldr", "ld1h") for name in mnemonics) == columns * unit.m
    assert not {"tbl", "ptrue"} & set(mnemonics)
    if (unit.name, unit.n) in (("sve_float32", 8), ("sve_bfmmla_bfloat16", 8)):
        text = "\n".join(re.sub(r"\s+", " ", line).strip() for line in lines if "prfm" not in line)
        golden(f"asm/{unit.name}_{rows * unit.m}x{columns * unit.n}", text)


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
    assert units.select(rich, half, half, dtypes.float32, tiles=True)[0].isa == "bfmmla"
    assert units.select(base, half, half, dtypes.float32)[0].isa == "neon"
    assert units.select(WIDE, half, half, dtypes.float32, tiles=True)[0].isa == "sve_bfmmla"
    assert units.select(WIDE, half, half, dtypes.float32)[1].endswith("sve_bfmmla is for tiles of 2 rows")
    plain = named("armv8.2-sve512")
    assert {units.select(plain, *kinds)[0].isa for kinds in ((byte, byte, dtypes.int32), (dtypes.int64,) * 3)} == {
        "sve"
    }
    short = replace(WIDE, vector=16)  # as on Neoverse N2 and V2
    assert not short.scale
    assert units.select(short, *[dtypes.float32] * 3)[0].isa == "neon"


def test_few_rows_stay_on_multiply_adds() -> None:
    for rows, isa in ((1, "bf16"), (4, "bf16"), (5, "bfmmla"), (symbol("m"), "bfmmla")):
        half = dtypes.bfloat16
        spec = GemmSpec(half, half, dtypes.float32, 0, "row", "row", True, (), (), (), ("unit",))
        views = View("a", half, (rows, 64), (64, 1)), View("b", half, (64, 96), (96, 1))
        call = KernelCall(spec, views, (View("c", dtypes.float32, (rows, 96), (96, 1)),))
        assert gemm.select(call, named("armv8.6")).matrix_unit.isa == isa


def test_machines_are_held_to_families_that_share_features() -> None:
    for machine in (named("armv8.6"), WIDE, named("armv8.2-sve512")):
        held = held_to_families(machine)
        for name, target in held.items():
            usable = [isa for isa, (_, missing) in target.unit_families.items() if not missing]
            assert name == f"host-{usable[0]}"
            assert target.vector == (machine.vector if target.has("sve") else 16)
    assert {"host-sve_i8mm", "host-sve_bfmmla", "host-sve", "host-i8mm", "host-neon"} <= set(held_to_families(WIDE))


def test_what_a_process_may_not_use_is_refused_to_llvm() -> None:
    """A CPU's name brings its features."""
    held = replace(named("armv8.6"), cpu="neoverse-v1")
    assert held.feature_string.endswith(",-sve")
    assert "-sve" not in WIDE.feature_string


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0x8FF, 0, {"neon"}),  # Cortex-A72
        (0x119FFF, 0, {"neon", "fullfp16", "dotprod"}),  # Neoverse N1
        (0xEFBFFFFF, 1 << 13 | 1 << 14, {"neon", "fullfp16", "dotprod", "i8mm", "bf16"}),
        (0x400C03, 0, {"neon", "fullfp16", "sve"}),  # A64FX
        (0x500C03, 0x7200, {"neon", "fullfp16", "dotprod", "sve", "i8mm", "bf16"}),  # Neoverse V1
        (0x500C03, 0x6000, {"neon", "fullfp16", "dotprod", "i8mm", "bf16"}),  # one that has those on short vectors only
        (0x500C03, 2, {"neon", "fullfp16", "dotprod", "sve", "sve2"}),
        (0x100C03, 2, {"neon", "fullfp16", "dotprod"}),
        (0, 0, set()),
    ],
)
def test_what_linux_says(first: int, second: int, expected: set[str]) -> None:
    assert arm_features.features(first, second) == expected
    assert expected - {"sve2"} <= WIDE.features
