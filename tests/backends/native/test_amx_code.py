"""Which products tiles are chosen for, and the code of their inner loops, for a machine that has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from backends.native import attention, gemm
from backends.native.form import HEADER
from backends.native.gemm import GemmKernel
from backends.native.target import Target, named
from backends.native.units import MatrixUnit, amx, amx_bf16x3, select
from bench.model_code import emitted
from compiler import dtypes
from compiler.dims import Size, symbol
from compiler.expr import arg
from compiler.kernels import AttentionSpec, GemmSpec, KernelCall, View

MACHINE = named("x86-64-amx")
(SPLIT,) = amx_bf16x3.UNITS
PERMITTED = {"splits": SPLIT.splits}


def kernel(unit: MatrixUnit, m: Size, n: Size = 96, k: Size = 256, **spec: object) -> GemmKernel:
    """For a product of a weight, of the unit's types."""
    what = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, (), (), (), ("unit",))
    a, b, c = View("a", unit.a, (m, k), (k, 1)), View("b", unit.b, (k, n), (n, 1)), View("c", unit.acc, (m, n), (n, 1))
    return gemm.select(KernelCall(replace(what, **spec), (a, b), (c,)), MACHINE)


@pytest.mark.parametrize("unit", amx.UNITS, ids=lambda unit: unit.name)
def test_tiles_multiply_what_has_rows_for_them(unit: MatrixUnit) -> None:
    for m, grid in ((16, "32x32"), (5, "32x32"), (64, "32x32"), (symbol("m"), "32x32")):
        chosen = kernel(unit, m)
        assert (chosen.unit, chosen.reason) == (unit.name, "")
        assert chosen.name.startswith(f"gemm_{unit.a}_{unit.b}_{unit.acc}_{unit.isa}_{grid}_")
    assert kernel(unit, 64, 16).name.startswith(f"gemm_{unit.a}_{unit.b}_{unit.acc}_{unit.isa}_32x16_")
    few = kernel(unit, 4)
    assert few.matrix_unit.acc_type is not None
    assert few.reason.startswith(f"{unit.isa} is for tiles of 16 rows")


@pytest.mark.parametrize("unit", [*amx.UNITS[:3], SPLIT], ids=lambda unit: unit.name)
def test_only_the_ends_of_dense_rows_are_copied(unit: MatrixUnit) -> None:
    """What K has behind whole steps; all of rows whose elements lie apart, and of those that are split."""
    m, n, steps = 64, 96, 9
    for ragged, stride in ((0, 1), (1, 1), (0, 2), (1, 2)):
        k = steps * unit.k + ragged
        spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "general", "row", True, (), (), (), ("unit",), splits=unit.splits)
        a, b = View("a", unit.a, (m, k), (k * stride, stride)), View("b", unit.b, (k, n), (n, 1))
        call = KernelCall(spec, (a, b), (View("c", unit.acc, (m, n), (n, 1)),))
        planned = gemm.select(call, MACHINE).arguments(call, int, 1)
        whole, end = (planned.words[HEADER.index(word)] for word in ("copy_a", "end_a"))
        assert (whole, end) == ((1, 0) if stride > 1 or unit.splits else (0, ragged))
        row = unit.k * unit.left.bytes * ((steps + ragged) * whole + end)
        assert m * row <= planned.scratch < m * row + 64 * 96 * 4


def test_registers_decode_weights_and_attend() -> None:
    unit = amx.UNITS[0]
    coded = kernel(unit, 64, codes=dtypes.uint4)
    assert (coded.unit, coded.reason) == ("avx512_bf16_bfloat16", "amx_bf16 is for tiles of 16 rows")
    spec = AttentionSpec(dtypes.bfloat16, dtypes.float32, 0, arg(0, dtypes.float32), (), ())
    views = [View(name, dtypes.bfloat16, (64, 64), (64, 1)) for name in "qkvo"]
    attends = attention.select(KernelCall(spec, tuple(views[:3]), tuple(views[3:])), MACHINE)
    assert attends.unit == "avx512_bf16_bfloat16"


def test_other_types_stay_on_registers() -> None:
    for dtype in (dtypes.float32, dtypes.float64):
        assert select(MACHINE, dtype, dtype, dtype, True)[0].isa == "avx512"
    unit, reason = select(named("x86-64-v4"), *[dtypes.bfloat16] * 2, dtypes.float32, True)
    assert unit.isa == "avx512"
    assert reason == "amx_bf16 needs amx-tile, amx-bf16; avx512_bf16 needs avx512bf16"


def test_floats_are_split_where_a_spec_permits_it() -> None:
    chosen = kernel(SPLIT, 64, **PERMITTED)
    assert (chosen.unit, chosen.reason) == ("amx_bf16x3_float32", "")
    assert chosen.shape.copies_a and not chosen.shape.packs_a and not chosen.shape.indirect
    plain = kernel(SPLIT, 64)
    assert (plain.unit, plain.reason) == ("avx512_float32", "")
    few = kernel(SPLIT, 3, **PERMITTED)
    assert (few.unit, few.reason) == ("avx512_float32", "amx_bf16x3 is for tiles of 16 rows")
    assert few.name == kernel(SPLIT, 3).name, "what is not used shapes no code"
    for target, lacks in (("x86-64-v4", "amx-tile, amx-bf16"), ("aarch64", "the architecture x86_64")):
        unit, reason = select(named(target), *[dtypes.float32] * 3, True, SPLIT.splits)
        assert unit.splits == 0 and f"amx_bf16x3 needs {lacks}" in reason


def inner_loops(chosen: GemmKernel, target: Target = MACHINE) -> dict[str, list[str]]:
    """The instructions of every innermost loop with a product, by micro-kernel."""
    found = {name.removeprefix(f"{chosen.name}_"): function for name, function in emitted(chosen, target).items()}
    loops = {name: (function, function.product_loop()) for name, function in found.items()}
    return {name: function.lines(loop) for name, (function, loop) in loops.items() if loop is not None}


@pytest.mark.parametrize("unit", amx.UNITS, ids=lambda unit: unit.name)
def test_inner_loops_load_each_tile_once(unit: MatrixUnit, golden: Callable[[str, str], None]) -> None:
    loops = inner_loops(kernel(unit, symbol("m"), symbol("n"), symbol("k")))
    assert set(loops) == {"32x32x1", "32x16x1", "16x32x1", "16x16x1"}
    for name, lines in loops.items():
        rows, columns = (int(extent) // 16 for extent in name.split("x")[:2])
        mnemonics = [line.split()[0] for line in lines]
        assert sum(m == "tileloadd" for m in mnemonics) == rows + columns
        assert sum(m.startswith("tdp") for m in mnemonics) == rows * columns
        assert not {"call", "callq", "tilestored", "tilezero", "ldtilecfg", "push", "pop"} & set(mnemonics)
        assert not any("%rsp" in line or "%rip" in line for line in lines), "spills or relocations"
    text = "\n".join(re.sub(r"\s+", " ", line) for line in loops["32x32x1"] if not line.startswith("prefetch"))
    golden(f"asm/{unit.name}_32x32", re.sub(r"\.LBB\d+_\d+", ".L", text))


def test_pieces_are_loaded_as_seldom_as_can_be(golden: Callable[[str, str], None]) -> None:
    """Of six products every one has a piece in common with the one before. 8 cycles a load and 16 a product, by the
    manual: 112 of 384 for the grid of 2 x 2."""
    loops = inner_loops(kernel(SPLIT, symbol("m"), symbol("n"), symbol("k"), **PERMITTED))
    counts = {}
    for name, lines in loops.items():
        mnemonics = [line.split()[0] for line in lines]
        counts[name] = sum(m == "tileloadd" for m in mnemonics), sum(m.startswith("tdp") for m in mnemonics)
        assert not {"call", "callq", "tilestored", "tilezero", "ldtilecfg", "push", "pop"} & set(mnemonics)
    assert counts == {"32x32x1": (14, 24), "32x16x1": (11, 12), "16x32x1": (10, 12), "16x16x1": (7, 6)}
    text = "\n".join(re.sub(r"\s+", " ", line) for line in loops["32x32x1"] if not line.startswith("prefetch"))
    golden(f"asm/{SPLIT.name}_32x32", re.sub(r"\.LBB\d+_\d+", ".L", text))


@pytest.mark.parametrize("cpu", ["x86-64-v4", "sapphirerapids", "znver4"])
def test_tiles_loaded_again_keep_their_numbers(cpu: str) -> None:
    """LLVM renames registers for some processors, and knows nothing of the rows a tile is configured with."""
    target = replace(MACHINE, cpu=cpu)
    for name, lines in inner_loops(kernel(SPLIT, symbol("m"), symbol("n"), symbol("k"), **PERMITTED), target).items():
        rows, columns = (int(extent) // 16 for extent in name.split("x")[:2])
        loaded = {line.split("%")[-1] for line in lines if line.startswith("tileloadd")}
        assert loaded == {f"tmm{4 + i}" for i in range(rows)} | {f"tmm{6 + j}" for j in range(columns)}
