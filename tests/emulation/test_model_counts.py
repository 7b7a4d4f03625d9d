"""The model's counts (bench.model_counts) against instructions executed, as the emulator of tiles counts them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.native import gemm
from backends.native import target as machine_target
from backends.native.blocking import Blocking
from backends.native.target import Target, host
from backends.native.units import amx as tiles
from bench.gemm_kernels import Case, call_of
from bench.model_cost import predict
from bench.model_counts import counts, tile_instructions
from bench.model_machines import MACHINES, Rates
from tests.backends.native import harness
from tests.emulation.aarch64 import Processor
from tests.emulation.aarch64_counts import CountingProcessor
from tests.emulation.amx import Emulator

FEATURES = frozenset(feature for unit in tiles.UNITS for feature in unit.requires)
KINDS = {"products": "TDP", "loads": "TILELOADD", "stores": "TILESTORED", "clearings": "TILEZERO",
         "configurations": "LDTILECFG"}  # fmt: skip


@pytest.fixture
def machine(amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> Target:
    """This machine with tiles."""
    with_tiles = replace(host(), features=host().features | FEATURES)
    monkeypatch.setattr(machine_target, "host", lambda: with_tiles)
    return with_tiles


def executed(case: Case, machine: Target, amx: Emulator, threads: int = 1) -> tuple[dict[str, int], dict[str, int]]:
    """What a product takes by the emulator's counters, and by the model."""
    call = call_of(case)
    kernel = gemm.select(call, machine)
    assert kernel.matrix_unit.acc_type is None
    memory = {view.buffer: np.ones(view.shape, view.dtype.numpy) for view in (*call.reads, *call.writes)}
    if kernel.spec.constant_b:
        memory["b"] = kernel.pack(call, 1, memory["b"])
    amx.reset()
    harness.execute(kernel, machine, kernel.arguments(call, int, threads), memory)
    assert (memory["c"] == case.k).all()
    found = amx.counters()
    counted = {kind: sum(n for name, n in found.items() if name.startswith(start)) for kind, start in KINDS.items()}
    return counted, tile_instructions(kernel, counts(kernel, call, threads))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("b", ["constant", "row"])
def test_a_call_executes_what_the_model_counts(b: str, dtype: str, machine: Target, amx: Emulator) -> None:
    for m, n, k in ((32, 32, 64), (50, 70, 100), (17, 16, 65), (80, 33, 31), (64, 96, 128)):
        found, counted = executed(Case(m, n, k, b, dtype=dtype), machine, amx)
        assert found == counted, (m, n, k)
        assert counted["products"] and counted["stores"]


@pytest.mark.parametrize("depth", [64, 128])
def test_cuts_are_counted(depth: int, machine: Target, amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles wait between blocks of K, panels are packed anew for items and not for blocks of rows."""
    for cut in (Blocking(96, 32, 32, depth, 1, True, True), Blocking(64, 64, 64, depth, 2, True, False)):
        monkeypatch.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
        found, counted = executed(Case(83, 70, 200, "row", dtype="int8"), machine, amx, threads=2)
        assert found == counted, cut
        assert counted["loads"] > counted["products"]  # those that resume


INSTANT = Rates(*[float("inf")] * 6)
COUNTED = replace(INSTANT, issue=1)
TYPES = ("float32", "float64", "bfloat16", "int8")


def instructions(case: Case, target: Target) -> float:
    """All instructions of a call: what it takes a machine that does one a cycle and everything else in no time."""
    machine = replace(
        MACHINES["lx2"](), target=target, inside=COUNTED, outside=COUNTED, l2_bytes=float("inf"),
        core_bandwidth=float("inf"), bandwidth=float("inf"), latency=0, enter=0, products=dict.fromkeys(TYPES, 0.0),
    )  # fmt: skip
    return predict(machine, case).cycles


@pytest.fixture
def counting(aarch64: Processor) -> CountingProcessor:
    """An emulated Arm processor that counts."""
    return CountingProcessor()


# Shapes, and how far off instructions may be: those of the ends of rows and columns are taken for the costliest.
ARM = (
    (64, 64, 64, "constant", 0.08),
    (32, 64, 64, "row", 0.1),
    (48, 32, 48, "column", 0.15),
    (40, 40, 40, "constant", 0.35),
)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_outer_products_execute_what_the_model_counts(dtype: str, counting: CountingProcessor) -> None:
    for m, n, k, b, tolerance in ARM:
        check_outer_products(Case(m, n, k, b, dtype=dtype), MACHINES["lx2"]().target, counting, tolerance)


@pytest.mark.slow
def test_blocks_of_k_over_all_panels_are_counted(counting: CountingProcessor) -> None:
    target = replace(MACHINES["lx2"]().target, l2=16 << 10)
    for b in ("constant", "row"):
        case = Case(64, 96, 128, b)
        words = counts(gemm.select(call_of(case), target), call_of(case)).words
        assert words["slab"] == words["depth"] < case.k
        check_outer_products(case, target, counting, 0.1)


def check_outer_products(case: Case, target: Target, counting: CountingProcessor, tolerance: float) -> None:
    """What is executed is what is counted, and all instructions as many as predicted but for `tolerance`."""
    call = call_of(case)
    kernel = gemm.select(call, target)
    memory = {view.buffer: np.ones(view.shape, view.dtype.numpy) for view in (*call.reads, *call.writes)}
    memory["b"] = np.ones((case.n, case.k), memory["b"].dtype).T if case.b == "column" else memory["b"]
    memory["b"] = kernel.pack(call, 1, memory["b"]) if kernel.spec.constant_b else memory["b"]
    counting.execute(kernel, target, kernel.arguments(call, int, 1), memory)
    executed, found = counting.executed(), counts(kernel, call)
    assert executed["outer product"] == found.products(kernel.matrix_unit.k)
    assert executed["mode switch"] == 4 * found.blocks
    assert executed["zero"] == tile_instructions(kernel, found)["clearings"]
    assert instructions(case, target) == pytest.approx(executed.total(), rel=tolerance), case
