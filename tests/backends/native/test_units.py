"""Units: what they mean, which one is chosen and why, and a unit with odd panels through the whole driver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from llvmlite import ir

from backends.native import gemm, units
from backends.native.blocking import Blocking
from backends.native.jit import compile_object, optimized, target_machine
from backends.native.pack import pack_panels
from backends.native.target import host, named
from backends.native.units import Grid, MatrixUnit, generic, sve
from backends.native.units.dot import DotUnit
from compiler import dtypes
from compiler.dims import symbol
from compiler.errors import DtypeError
from compiler.expr import arg
from compiler.kernels import GemmSpec, KernelCall, View
from tests.backends.native.fake_unit import FAKE
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply

RNG = np.random.default_rng(5)
EVERY = (*units.ORDERED, *sve.units(32), *generic.units(16), FAKE)


def emulated(unit: MatrixUnit, grid: Grid, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A @ B from packed panels, mma by mma."""
    (height, a_depth), (width, b_depth) = unit.panels(grid)
    rows, columns = pack_panels(a, height, a_depth, unit.k), pack_panels(b.T, width, b_depth, unit.k)
    result = np.zeros((len(rows) * height, len(columns) * width), unit.acc.numpy)
    for i, j in np.ndindex(len(rows), len(columns)):
        left = rows[i].swapaxes(0, 1).reshape(height, -1)
        right = columns[j].swapaxes(1, 2).reshape(-1, width)
        for r, c in np.ndindex(grid.rows, grid.columns):
            tile = np.zeros((unit.m, unit.n), unit.acc.numpy)
            for k in range(0, left.shape[1], unit.k):
                block = left[r * unit.m : (r + 1) * unit.m, k : k + unit.k]
                tile = unit.emulate(tile, block, right[k : k + unit.k, c * unit.n : (c + 1) * unit.n])
            at = i * height + r * unit.m, j * width + c * unit.n
            result[at[0] : at[0] + unit.m, at[1] : at[1] + unit.n] = tile
    return result[: a.shape[0], : b.shape[1]]


@pytest.mark.parametrize("unit", EVERY, ids=lambda unit: unit.name)
def test_what_a_unit_means_over_packed_panels_is_the_product(unit: MatrixUnit) -> None:
    a = RNG.integers(-8, 8, (11, 7)).astype(unit.a.numpy)
    b = RNG.integers(-8, 8, (7, 37)).astype(unit.b.numpy)
    expected = a.astype(unit.acc.numpy) @ b.astype(unit.acc.numpy)
    for grid in unit.grids:
        assert_same(emulated(unit, grid, a, b), expected)


@pytest.mark.parametrize("unit", EVERY, ids=lambda unit: unit.name)
def test_grids_fit_the_product(unit: MatrixUnit) -> None:
    assert unit.grid(symbol("n")) in unit.grids
    for n in (0, 1, unit.n, unit.n + 1, 2 * unit.n, 64, 100, 768, 1000):
        grid = unit.grid(n)
        assert grid in unit.grids
        assert grid.columns == unit.grids[-1].columns or (grid.columns - 1) * unit.n < n
    assert len({grid.rows for grid in unit.grids}) == 1


def test_exact_panels_are_preferred_for_small_products() -> None:
    unit = units.select(named("x86-64-v4"), *[dtypes.float32] * 3)[0]
    widths = {n: unit.grid(n).columns * unit.n for n in (10, 32, 48, 64, 768, 3072)}
    assert widths == {10: 16, 32: 32, 48: 48, 64: 32, 768: 48, 3072: 48}


def test_selection_takes_the_first_that_runs_and_says_why_not_others() -> None:
    kinds = [dtypes.float32] * 3
    machines = {
        "x86-64-v4": ("avx512_float32", ""), "x86-64-v3": ("avx2_float32", "avx512 needs avx512f"),
        "aarch64": ("neon_float32", "sme2 needs sme, sme2; sme needs sme"),  # nothing of units of other architectures
    }  # fmt: skip
    for machine, expected in machines.items():
        unit, reason = units.select(named(machine), *kinds)
        assert (unit.name, reason) == expected
    bare = replace(host(), features=host().features - {"avx512f", "fma"}, vector=16)
    assert units.select(bare, *kinds)[0].name == "generic_float32"
    assert units.select(named("x86-64-v3"), *[dtypes.float64] * 3)[0].name == "avx2_float64"
    with pytest.raises(DtypeError, match="no matrix unit multiplies float32 by float64"):
        units.select(host(), dtypes.float32, dtypes.float64, dtypes.float64)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> MatrixUnit:
    """The engine with the fake unit in place of this machine's."""
    monkeypatch.setattr(gemm, "select_unit", lambda *_: (FAKE, ""))
    return FAKE


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_odd_panels_through_the_whole_driver(
    fake: MatrixUnit, constant: bool, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = arg(0, dtypes.float32) + arg(1, dtypes.float32)
    for m, n, k in ((1, 1, 1), (3, 6, 2), (7, 11, 5), (14, 23, 9), (4, 3, 0)):
        a, b, bias = (RNG.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n), (n,)))
        expected = emulated(fake, Grid(1, 1), a, b) + bias if k else np.broadcast_to(bias, (m, n)) + np.float32(0)
        operands = (np.asarray(a, order=order), np.asarray(b, order=order))
        options = {"operands": [bias], "epilogue": (value,), "constant": constant, "symbolic": True}
        assert_same(multiply(*operands, **options)[0], expected)
        for cut in (Blocking(6, 10, 6, 2, 1, True, not constant), Blocking(9, 20, 6, 2, 1, True, not constant, True)):
            with monkeypatch.context() as context:
                context.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
                assert_same(multiply(*operands, **options)[0], expected)


def test_odd_panels_gather_windows(fake: MatrixUnit) -> None:
    x = RNG.integers(-4, 4, (1, 5, 5, 3)).astype(np.float32)
    b = RNG.integers(-4, 4, (27, 8)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = np.stack([padded[0, i : i + 5, j : j + 5] for i in range(3) for j in range(3)], 2).reshape(25, 27)
    params = [value for value in (5, 3, 1, 1, 1, 5) for _ in range(2)]
    found = multiply(x, b, constant=True, window=2, params=params, shape=(25, 8))[0]
    assert_same(found, columns @ b)


@pytest.mark.parametrize("machine", ["x86-64-v4", "x86-64-v3", "aarch64"])
def test_code_is_generated_for_any_machine(machine: str) -> None:
    target = named(machine)
    spec = GemmSpec(*[dtypes.float32] * 3, 0, "row", "row", True, (), (), (), ("unit",))
    a, b, c = (View(name, dtypes.float32, (symbol("m"), 100), (100, 1)) for name in "abc")
    kernel = gemm.select(KernelCall(spec, (a, b), (c,)), target)
    module = ir.Module(kernel.name)
    kernel.emit(module)
    assert kernel.name.encode() in compile_object(module, target, kernel.passes)


# What inner loops are made of; some of these units no test machine may have.
PRODUCTS = {
    "avx512_bf16": "vdpbf16ps", "avx512_vnni": "vpdpbusd", "avx512bw": "vpmaddwd", "avx_vnni": "vpdpbusd",
    "avx2": "vpmaddwd",
}  # fmt: skip


@pytest.mark.parametrize(
    "unit",
    [unit for unit in units.ORDERED if isinstance(unit, DotUnit) and unit.architecture == "x86_64"],
    ids=lambda unit: unit.name,
)
def test_dot_units_are_made_of_their_instruction(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = named("x86-64-v4" if unit.n == 16 else "x86-64-v3")
    target = replace(machine, features=machine.features | set(unit.requires))
    assert not unit.missing(target)
    monkeypatch.setattr(gemm, "select_unit", lambda *_: (unit, ""))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, (), (), (), ("unit",))
    a, b = View("a", unit.a, (16, 64), (64, 1)), View("b", unit.b, (64, 96), (96, 1))
    kernel = gemm.select(KernelCall(spec, (a, b), (View("c", unit.acc, (16, 96), (96, 1)),)), target)
    module = ir.Module(kernel.name)
    kernel.emit(module)
    code = target_machine(target).emit_assembly(optimized(module, target, kernel.passes))
    words = [line.split()[0] for line in code.replace("{vex}", "").splitlines() if line.split()]
    assert words.count(PRODUCTS[unit.isa]) >= kernel.shape.grid.rows * kernel.shape.grid.columns
    assert not {"vpmaddubsw", "vpdpbusds"} & set(words), "saturates"
    assert ("zmm" in code) == (unit.n == 16)
