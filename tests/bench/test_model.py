"""The analytic model: what it reads off code, what it predicts, what it says binds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.native.target import host, named
from bench import model, model_figure, model_machines, model_validate
from bench.gemm_kernels import Case
from bench.model_code import mix_of
from bench.model_cost import PARTS, Prediction, _code, predict
from bench.model_counts import row_blocks
from bench.model_machines import MACHINES, Machine, Rates, lx2, sapphire_rapids
from bench.shapes import parse

DTYPES = ("float64", "float32", "bfloat16", "int8")
ROOMY = Rates(issue=100, vectors=100, loads=100, load_bytes=1e4, store_bytes=1e4, prefetches=100)
EVERYTHING = {"l2_bytes": 1e4, "l3_bytes": 1e4, "core_bandwidth": 1e15, "bandwidth": 1e15, "latency": 0, "enter": 0}


@pytest.fixture(scope="module")
def central() -> Callable[[str, str], Prediction]:
    """The prediction for 1024^3 with a constant B, by machine and type."""
    found: dict[tuple[str, str], Prediction] = {}

    def get(machine: str, dtype: str) -> Prediction:
        if (machine, dtype) not in found:
            found[machine, dtype] = predict(MACHINES[machine](), Case(1024, 1024, 1024, dtype=dtype))
        return found[machine, dtype]

    return get


@pytest.mark.parametrize("machine", ["sapphire-rapids", "lx2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_of_tiles_loads_each_operand_once(
    machine: str, dtype: str, central: Callable[[str, str], Prediction]
) -> None:
    kernel = central(machine, dtype).kernel
    unit, grid = kernel.matrix_unit, kernel.shape.grid
    name = f"{kernel.name}_{grid.rows * unit.m}x{grid.columns * unit.n}x1"
    function = _code(kernel, MACHINES[machine]().target)[name]
    mix = mix_of(function.lines(function.product_loop()), function.streaming)
    assert mix.products == grid.rows * grid.columns
    assert mix.loads == grid.rows + grid.columns
    assert mix.load_bytes == (
        grid.rows * (unit.m * unit.k * unit.left.bytes if unit.acc_type is None else unit.left.bytes)
        + grid.columns * unit.n * unit.k * unit.right.bytes
    )


def test_blocks_of_rows_are_those_of_the_macro_kernel() -> None:
    assert list(row_blocks(83, (32,))) == [(32, 32, False)] * 2 + [(32, 19, True)]
    assert list(row_blocks(23, (8, 4, 2, 1))) == [(8, 8, False)] * 2 + [(4, 4, False), (2, 2, False), (1, 1, False)]
    assert list(row_blocks(50, (32, 32))) == [(32, 32, False), (32, 18, True)]


@pytest.mark.parametrize("machine", ["sapphire-rapids", pytest.param("lx2", marks=pytest.mark.slow)])
def test_fractions_are_between_nothing_and_all(machine: str) -> None:
    for dtype in DTYPES:
        for m, n, k, b in (
            (1, 768, 768, "constant"),
            (4, 96, 9000, "row"),
            (37, 29, 31, "row"),
            (130, 96, 64, "column"),
        ):
            found = predict(MACHINES[machine](), Case(m, n, k, b, dtype=dtype))
            assert 0 < found.fraction <= 1
            assert set(found.parts) == set(PARTS) and min(found.parts.values()) >= 0
            assert found.parts["multiplier"] == pytest.approx(found.fraction * found.cycles)


@pytest.mark.parametrize("machine", ["sapphire-rapids", "apple-m4", "lx2"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_larger_products_come_closer_to_the_peak(machine: str, dtype: str) -> None:
    found = [predict(MACHINES[machine](), Case(n, n, n, "row", dtype=dtype)).fraction for n in (64, 128, 256)]
    assert found == sorted(found)


def constructed(machine: Machine, **limits: object) -> Machine:
    """A machine without limits but the multiplier and those given."""
    return replace(machine, **{"inside": ROOMY, "outside": ROOMY, **EVERYTHING, **limits})


BOUND = {
    "multiplier": ({}, Case(256, 256, 256)),
    "front end": ({"inside": replace(ROOMY, issue=1)}, Case(256, 256, 256)),
    "loads": ({"inside": replace(ROOMY, load_bytes=8)}, Case(256, 256, 256)),
    "vectors": (
        {"inside": replace(ROOMY, vectors=0.2), "target": named("x86-64-v3")},
        Case(64, 48, 2048, dtype="bfloat16"),
    ),
    "packing": ({"outside": replace(ROOMY, store_bytes=1)}, Case(64, 1024, 256, "column")),
    "results": ({"latency": 1e4}, Case(256, 256, 64)),
    "bandwidth": ({"bandwidth": 1e9, "l3": 0}, Case(64, 4096, 1024)),
}


@pytest.mark.parametrize("binds", BOUND)
def test_what_is_scarce_binds(binds: str) -> None:
    limits, case = BOUND[binds]
    found = predict(constructed(sapphire_rapids(), **limits), case)
    assert found.binds == binds
    assert binds == "multiplier" or found.loss == binds
    assert (found.fraction > 0.95) == (binds == "multiplier")


def test_cores_share_what_is_shared() -> None:
    case = Case(16, 8192, 512, "cold")
    alone, crowded = (predict(sapphire_rapids(), case, busy) for busy in (1, 56))
    assert crowded.cycles > alone.cycles and crowded.binds == "bandwidth"


@pytest.mark.parametrize("dtype", DTYPES)
def test_outer_products_at_512_bits_reach_ninety_percent(dtype: str, central: Callable[[str, str], Prediction]) -> None:
    """On LX2's figures, packing of A counted; with all cores busy and in larger products as well."""
    found = central("lx2", dtype)
    assert found.parts["packing"] > 0
    assert found.fraction >= 0.9
    machine, large = lx2(), Case(4096, 4096, 4096, dtype=dtype)
    assert predict(machine, found.case, machine.cores).fraction >= 0.895
    assert predict(machine, large, machine.cores).fraction >= 0.94


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("machine", "size", "least"), [("apple-m4", 1024, 0.91), ("lx2", 1024, 0.88), ("lx2", 4096, 0.93)]
)
def test_outer_products_keep_most_of_it_where_the_call_packs_b(
    machine: str, size: int, least: float, dtype: str
) -> None:
    """All columns in one item without L3, so that A is packed once."""
    found = predict(MACHINES[machine](), Case(size, size, size, "row", dtype=dtype))
    assert found.fraction >= least
    assert found.counts.words["item_columns"] * size * found.kernel.matrix_unit.b.bytes >= min(64 << 20, size * size)


def test_blocks_of_k_are_passes_over_what_waits() -> None:
    """Tiles that wait are traffic, B passes once for each block of rows whatever K is cut into."""
    machine, case = lx2(), Case(1024, 1024, 1024, dtype="float64")
    found = predict(machine, case, machine.cores)
    words = found.counts.words
    assert words["slab"] == words["depth"] < 1024
    assert found.counts.passes == -(-1024 // words["block_rows"])
    slower = replace(machine, bandwidth=machine.bandwidth / 2)
    assert predict(slower, case, machine.cores).loss == "bandwidth"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("machine", ["sapphire-rapids", "granite-rapids"])
def test_tiles_reach_ninety_percent(machine: str, dtype: str, central: Callable[[str, str], Prediction]) -> None:
    assert central(machine, dtype).fraction >= 0.9


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_overlaps_is_what_the_window_holds(dtype: str) -> None:
    machine, case = sapphire_rapids(), Case(1024, 1024, 1024, dtype=dtype)
    found = [predict(replace(machine, window=size), case).fraction for size in (0, 128, 256, 512, 4096)]
    assert found == sorted(found) and found[0] < 0.75 and found[2] > 0.9 and found[-1] > 0.97


@pytest.mark.parametrize("dtype", DTYPES)
def test_loads_of_several_registers_feed_a_unit_that_issues_one_a_cycle(
    dtype: str, central: Callable[[str, str], Prediction]
) -> None:
    """On the M4's figures, packing of A counted."""
    found = central("apple-m4", dtype)
    unit, grid = found.kernel.matrix_unit, found.kernel.shape.grid
    name = f"{found.kernel.name}_{grid.rows * unit.m}x{grid.columns * unit.n}x1"
    function = _code(found.kernel, MACHINES["apple-m4"]().target)[name]
    assert mix_of(function.lines(function.product_loop()), function.streaming).loads == 2
    assert found.parts["packing"] > 0 and found.fraction >= 0.9 and found.parts["loads"] < 0.01 * found.cycles


def test_assumed_figures_exist_and_are_varied() -> None:
    for make in MACHINES.values():
        machine = make()
        for name in machine.assumed:
            assert machine.scaled(name, 2) != machine
        assert machine.scaled("inside.issue", 0.5).inside.issue == machine.inside.issue / 2
    names = [name for name, *_ in model.sensitivity(lx2(), Case(64, 64, 64))]
    assert names == list(lx2().assumed)
    less, now, more = next(found[1:] for found in model.sensitivity(lx2(), Case(64, 64, 64)) if found[0] == "enter")
    assert less > now > more


@pytest.mark.slow
def test_the_command_prints_every_product_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(model_figure, "SIZES", (64, 40))
    monkeypatch.setattr(model, "CENTRAL", parse("64x64x64")[0])
    path = tmp_path / "model.svg"
    model.main(["--machine", "lx2,sapphire-rapids", "--shapes", "64x64x64,40x40x40", "--dtype", "float32,int8",
                "--figure", str(path)])  # fmt: skip
    out = capsys.readouterr().out
    assert out.count("40x40x40") == 8 and "of peak" in out and "as assumed" in out
    assert path.read_text(encoding="utf-8").startswith("<?xml")
    with pytest.raises(SystemExit):
        model.main(["--machine", "abacus"])


def test_this_machine_is_measured_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.bandwidth.bandwidth", lambda size, threads: 1e11)
    monkeypatch.setattr("bench.peak.unit_peak", lambda unit, threads, target: 1e11)
    monkeypatch.setattr(model_machines, "TURNS", 1000)
    machine = model_machines.measured()
    assert machine.target == host() and 1e8 < machine.clock < 1e10
    monkeypatch.setattr(model_validate, "SAMPLES", 1)
    monkeypatch.setattr(model_validate, "RUNS", 1)
    text = model_validate.validate(machine, ["float32"], parse("24x32x16,33x40x24"))
    assert "all: 4 products, median error" in text and "33x40x24 float32 row plain" in text


def test_errors_are_signed_by_time() -> None:
    prediction = predict(lx2(), Case(64, 64, 64))
    slower = model_validate.Compared(prediction, prediction.fraction / 2)
    assert slower.error == pytest.approx(-0.5)
    assert "worst -50.0%" in model_validate.report(lx2(), [slower])
