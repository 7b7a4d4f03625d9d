"""Which products tiles of streaming mode are chosen for, and the code around and inside their inner loops."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from llvmlite import ir

from backends.native import arm_features, attention, gemm
from backends.native.gemm import GemmKernel
from backends.native.jit import optimized, target_machine
from backends.native.target import Target, host, named
from backends.native.units import MatrixUnit, select, sme, sme2
from compiler import dtypes
from compiler.dims import Size, symbol
from compiler.expr import arg
from compiler.kernels import AttentionSpec, GemmSpec, KernelCall, View

MACHINES = {"sme": named("armv9-sme"), "sme2": named("armv9-sme2")}
FIRST, SECOND = sme.units(64), sme2.units(64)
UNITS = (*FIRST, *SECOND)
REASONS = {"sme": "sme2 needs sme2", "sme2": ""}
ANY = (symbol("m"), symbol("n"), symbol("k"))
PRODUCT = re.compile(r"(bf|f|s|u|su|us)mopa\b")
MICRO = re.compile(r"_\d+x\d+x1")


def kernel(unit: MatrixUnit, m: Size = 64, n: Size = 96, k: Size = 256, **spec: object) -> GemmKernel:
    """For a product of a weight, of the unit's types, on a machine of its version and vectors."""
    what = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, (), (), (), ("unit",))
    a, b, c = View("a", unit.a, (m, k), (k, 1)), View("b", unit.b, (k, n), (n, 1)), View("c", unit.acc, (m, n), (n, 1))
    return gemm.select(KernelCall(replace(what, **spec), (a, b), (c,)), machine_of(unit))


def machine_of(unit: MatrixUnit) -> Target:
    return replace(MACHINES[unit.isa], streaming=unit.n * unit.acc.bytes)


@pytest.mark.parametrize("streaming", sme.WIDTHS)
@pytest.mark.parametrize("version", MACHINES)
@pytest.mark.parametrize("number", range(len(FIRST)))
def test_tiles_multiply_what_has_rows_for_them(number: int, version: str, streaming: int) -> None:
    unit = (sme if version == "sme" else sme2).units(streaming)[number]
    assert (unit.m, unit.n) == (streaming // unit.acc.bytes,) * 2
    rows, columns = 2 * unit.m, (4 if unit.acc.bits == 64 else 2) * unit.n
    chosen = kernel(unit, symbol("m"), symbol("n"))
    assert (chosen.unit, chosen.reason) == (unit.name, REASONS[version])
    assert chosen.name.startswith(f"gemm_{unit.a}_{unit.b}_{unit.acc}_{version}_{rows}x{columns}_")
    few = kernel(unit, 4)
    assert few.matrix_unit.acc_type is not None
    assert f"sme is for tiles of {unit.m} rows" in few.reason


def test_registers_decode_weights_and_attend() -> None:
    coded = kernel(FIRST[0], codes=dtypes.uint4)
    assert (coded.unit, coded.reason) == ("neon_float32", "sme2 needs sme2; sme is for tiles of 16 rows")
    spec = AttentionSpec(dtypes.float32, dtypes.float32, 0, arg(0, dtypes.float32), (), ())
    views = [View(name, dtypes.float32, (64, 64), (64, 1)) for name in "qkvo"]
    attends = attention.select(KernelCall(spec, tuple(views[:3]), tuple(views[3:])), MACHINES["sme2"])
    assert attends.unit == "neon_float32"


def assembly(chosen: GemmKernel) -> dict[str, list[str]]:
    """The lines of every function, by what its name says beside the kernel's."""
    module = ir.Module(chosen.name)
    chosen.emit(module)
    machine = machine_of(chosen.matrix_unit)
    code = target_machine(machine).emit_assembly(optimized(module, machine, chosen.passes))
    parts = re.findall(rf"^{chosen.name}(\w*):\n(.*?)^\.Lfunc_end", code, re.MULTILINE | re.DOTALL)
    return {name: [line.strip() for line in body.splitlines()] for name, body in parts}


def inner_loop(lines: list[str]) -> list[str]:
    """The instructions of the loop with the products."""
    last = max(i for i, line in enumerate(lines) if PRODUCT.match(line))
    end = next(i for i in range(last, len(lines)) if re.match(r"b\.\w+\s", lines[i]))
    start = lines.index(f"{lines[end].split()[1]}:")
    assert start < last
    return lines[start + 1 : end + 1]


def groups(count: int) -> list[int]:
    """Registers by the load that fills them."""
    return [] if not count else [largest := 4 if count >= 4 else 2 if count >= 2 else 1, *groups(count - largest)]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_inner_loops_load_each_vector_once(unit: MatrixUnit, golden: Callable[[str, str], None]) -> None:
    functions = {
        name: lines for name, lines in assembly(kernel(unit, *ANY)).items() if re.fullmatch(r"_\d+x\d+x1", name)
    }
    assert len(functions) == 2 * unit.grids[0].columns
    for name, lines in functions.items():
        rows, columns = (int(extent) // unit.m for extent in name[1:].split("x")[:2])
        loop = inner_loop(lines)
        mnemonics = [line.split()[0] for line in loop]
        loads = [line for line in loop if re.match(r"ldr\tz|ld1", line)]
        assert sum(max(1, len(re.findall(r"z\d+\.", line))) for line in loads) == rows + columns
        assert len(loads) == (rows + columns if unit in FIRST else len(groups(rows)) + len(groups(columns)))
        assert sum(bool(PRODUCT.match(m)) for m in mnemonics) == rows * columns
        assert not {"bl", "blr", "str", "stp", "adrp"} & set(mnemonics)
        assert not any("sp" in re.findall(r"\w+", line) for line in loop), "spills"
    grid = f"{2 * unit.m}x{unit.grids[0].columns * unit.n}"
    whole = inner_loop(functions[f"_{grid}x1"])
    assert sum(bool(PRODUCT.match(line)) for line in whole) == (8 if unit.acc.bits == 64 else 4)
    text = "\n".join(re.sub(r"\s+", " ", line) for line in whole if not line.startswith("prfm"))
    golden(
        f"asm/{unit.name}_{2 * unit.m}x{max(g.columns for g in unit.grids) * unit.n}",
        re.sub(r"\.LBB\d+_\d+", ".L", text),
    )


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "fresh"])
def test_one_function_enters_the_mode_and_calls_none_that_leaves_it(constant: bool) -> None:
    """Everything that works on tiles runs in streaming mode as it was called, and what packs does not."""
    epilogue = (arg(0, dtypes.float32) + arg(1, dtypes.float32),)
    chosen = kernel(SECOND[0], *ANY, constant_b=constant, epilogue=epilogue, epilogue_inputs=(dtypes.float32,),
                    epilogue_classes=("unit",))  # fmt: skip
    functions = assembly(chosen)
    switches = {name: [line for line in lines if line.startswith("sm")] for name, lines in functions.items()}
    assert [line.split() for line in switches.pop("_panels")] == [
        ["smstart", "sm"], ["smstart", "za"], ["smstop", "za"], ["smstop", "sm"]
    ]  # fmt: skip
    assert not any(switches.values())
    calls = {line.split()[1] for line in functions["_panels"] if line.startswith("bl\t")}
    assert calls and all(re.fullmatch(rf"{chosen.name}_(\d+x\d+x1|epilogue)", name) for name in calls)
    streaming = {name.removeprefix(chosen.name) for name in calls}
    assert not any(line.startswith(("bl\t", "blr")) for name in streaming for line in functions[name])
    packers = [name for name in functions if "_pack_" in name]
    assert len(packers) == (1 if constant else 2)
    assert not any(PRODUCT.match(line) for name in packers for line in functions[name])


def test_what_is_lacking() -> None:
    single, double = dtypes.float32, dtypes.float64
    machine = MACHINES["sme2"]
    without = replace(machine, features=machine.features - {"sme-f64f64"})
    unit, reason = select(without, double, double, double, True)
    assert (unit.name, reason) == ("neon_float64", "sme2 needs sme-f64f64; sme needs sme-f64f64")
    assert select(without, single, single, single, True)[0].name == "sme2_float32"
    first = select(MACHINES["sme"], single, single, single, True)
    assert (first[0].name, first[1]) == ("sme_float32", "sme2 needs sme2")
    features = machine.features - {"sme", "sme2"}
    refused = replace(machine, features=features, streaming=0, refused=(("sme", "a reason"),))
    unit, reason = select(refused, single, single, single, True)
    assert (unit.name, reason) == ("neon_float32", "sme2 needs sme (a reason), sme2; sme needs sme (a reason)")
    unit, reason = select(replace(machine, streaming=0), single, single, single, True)
    lacking = "needs a vector length of streaming mode"
    assert (unit.name, reason) == ("neon_float32", f"sme2 {lacking}; sme {lacking}")
    assert "needs the architecture aarch64" in host().units["sme_float32"] or host().architecture == "aarch64"


@pytest.mark.parametrize("number", range(len(FIRST)))
def test_the_second_version_has_shorter_steps(number: int) -> None:
    """Which is why it is preferred."""
    lengths = []
    for unit in (FIRST[number], SECOND[number]):
        micro = assembly(kernel(unit, *ANY))[f"_{2 * unit.m}x{unit.grids[0].columns * unit.n}x1"]
        lengths.append(len([line for line in inner_loop(micro) if not line.startswith("prfm")]))
    assert lengths == ([20, 16] if FIRST[number].acc.bits == 64 else [14, 12])


# Bits of AT_HWCAP2: streaming mode, its products by type, its second version.
BITS = {"SME": 23, "F64F64": 25, "I8I32": 26, "F16F32": 27, "B16F32": 28, "F32F32": 29, "SME2": 37}
BASE = ("SME", "I8I32", "F16F32", "B16F32", "F32F32")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), set()),
        (BASE, {"sme"}),
        ((*BASE, "F64F64"), {"sme", "sme-f64f64"}),
        ((*BASE, "SME2"), {"sme", "sme2"}),
        (("SME", "F64F64", "SME2"), set()),
    ],
)
def test_detection(names: tuple[str, ...], expected: set[str]) -> None:
    """By Linux' words, and by macOS' names."""
    word = sum(1 << BITS[name] for name in names)
    assert {f for f in arm_features.features(0, word) if f.startswith("sme")} == expected
    keys = {f"hw.optional.arm.{prefix}{name}" for name in names for prefix in ("", "FEAT_", "SME_", "FEAT_SME_")}
    found = arm_features.features_by_name(lambda key: int(key in keys))
    assert {f for f in found if f.startswith("sme")} == expected
