"""Tuning: what is measured and when, what is remembered where, and that programs use it. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import runtime
from backends.native import choices, gemm, trial, tuning
from backends.native.blocking import Blocking
from backends.native.cache import ObjectCache
from backends.native.candidates import Choice
from backends.native.choices import Choices
from backends.native.executable import Executable
from backends.native.library import library
from backends.native.plan import PlannedCall
from backends.native.target import host, named
from backends.native.trial import Pool, Trial, number
from backends.native.tuning import Tuning
from backends.native.units import Grid
from bench.gemm_kernels import Case, call_of
from compiler.builder import Builder
from compiler.dims import symbol
from compiler.dtypes import float32, int64
from compiler.kernels import GemmSpec, KernelCall, View
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options


class FakeTrial:
    """Measures nothing: time as a function of the cut and the grid."""

    made = 0
    measured = 0
    time: Callable[[Blocking, Grid], float]

    def __init__(self, kernel: gemm.GemmKernel, *_: object) -> None:
        self.grid = kernel.shape.grid
        type(self).made += 1

    def calibrate(self, cut: Blocking) -> float:
        return self.nanoseconds(cut)

    def nanoseconds(self, cut: Blocking) -> float:
        type(self).measured += 1
        return type(self).time(cut, self.grid)


@pytest.fixture
def fake() -> Iterator[type[FakeTrial]]:
    """Trials that find half the rows of a block, and narrow grids, faster."""
    kind = type("Trial", (FakeTrial,), {"time": lambda cut, grid: 1000.0 * cut.block_rows + 10 * grid.columns})
    with mock.patch.object(tuning, "Trial", kind):
        yield kind


def planned(case: Case, call: KernelCall | None = None) -> PlannedCall:
    call = call or call_of(case)
    kernel = gemm.select(call, host())
    return PlannedCall(call, kernel, library(host()).load([(kernel, call.spec)], None)[kernel.name], 0)


def cuts(tuned: Tuning, call: PlannedCall, threads: int = 1, m: int = 0) -> dict[object, Blocking]:
    """The tuned cuts of a plan of one call, its symbolic size being m."""
    return dict(tuned.cuts([call], ["it"], lambda size: size if isinstance(size, int) else m, threads))


CASE = Case(128, 768, 768)


def test_without_tuning_nothing_is_measured(tmp_path: Path, fake: type[FakeTrial]) -> None:
    tuned = Tuning(host(), ObjectCache(tmp_path), measures=False)
    assert not cuts(tuned, planned(CASE)) and not tuned.kernels([call_of(CASE)], 1)
    assert fake.made == 0 and not list(tmp_path.rglob("*"))


def test_a_question_is_measured_once_and_remembered(tmp_path: Path, fake: type[FakeTrial]) -> None:
    call = planned(CASE)
    first = Tuning(host(), ObjectCache(tmp_path), measures=True)
    found = cuts(first, call)["it"]
    assert found.block_rows < 128 and fake.made == 1
    assert 0 < fake.measured <= 1 + tuning.runs_for(128_000)
    for measures in (True, False):  # another process
        assert cuts(Tuning(host(), ObjectCache(tmp_path), measures), call) == {"it": found}
    assert cuts(first, call) == {"it": found} and fake.made == 1
    cuts(first, call, threads=2)
    cuts(first, planned(replace(CASE, m=512)))
    assert fake.made == 3


def test_products_of_nothing_are_not_asked_about(fake: type[FakeTrial]) -> None:
    tuned = Tuning(host(), None, measures=True)
    for case in (replace(CASE, m=0), replace(CASE, n=0), replace(CASE, k=0)):
        assert not cuts(tuned, planned(case)) and not tuned.kernels([call_of(case)], 1)
    assert fake.made == 0


def test_without_a_cache_choices_last_as_long_as_the_program(fake: type[FakeTrial]) -> None:
    tuned = Tuning(host(), None, measures=True)
    assert cuts(tuned, planned(CASE)) == cuts(tuned, planned(CASE)) and fake.made == 1


def test_sizes_of_a_class_share_a_choice(fake: type[FakeTrial]) -> None:
    call = call_of(CASE)
    views = [replace(view, shape=(symbol("m"), *view.shape[1:])) for view in (call.reads[0], *call.writes)]
    unknown = planned(CASE, replace(call, reads=(views[0], call.reads[1]), writes=(views[1],)))
    tuned = Tuning(host(), None, measures=True)
    found = [cuts(tuned, unknown, m=m)["it"] for m in (113, 120, 128)]
    assert fake.made == 1 and all(cut.block_rows % 8 == 0 for cut in found)
    cuts(tuned, unknown, m=129)
    assert fake.made == 2
    assert not tuned.kernels([unknown.call], 1), "grids are for known sizes"


def test_what_is_not_faster_is_remembered_too(tmp_path: Path, fake: type[FakeTrial]) -> None:
    fake.time = lambda cut, grid: 1e5
    for _ in range(2):
        assert not cuts(Tuning(host(), ObjectCache(tmp_path), measures=True), planned(CASE))
    assert fake.made == 1


def test_calls_too_long_to_measure_stay_untuned(fake: type[FakeTrial]) -> None:
    fake.time = lambda cut, grid: 1e9
    tuned = Tuning(host(), None, measures=True)
    assert not cuts(tuned, planned(CASE)) and not tuned.kernels([call_of(CASE)], 1)
    assert fake.measured <= 2


def test_grids_are_chosen_for_known_sizes(tmp_path: Path, fake: type[FakeTrial]) -> None:
    call = call_of(CASE)
    tuned = Tuning(host(), ObjectCache(tmp_path), measures=True)
    fake.time = lambda cut, grid: 1e5 + grid.columns * 1e4
    other = tuned.kernels([call], 1)[call]
    assert isinstance(other, gemm.GemmKernel)
    assert other.shape.grid == min(other.matrix_unit.grids, key=lambda grid: grid.columns)
    made = fake.made
    found = Tuning(host(), ObjectCache(tmp_path), measures=False).kernels([call], 1)
    assert found == {call: other} and fake.made == made


def test_choices_survive_the_process(tmp_path: Path) -> None:
    mine, other = (Choices(host(), ObjectCache(tmp_path)) for _ in range(2))
    mine.add({"a": (1, 2), "b": ()})
    other.add({"c": (3,)})
    assert Choices(host(), ObjectCache(tmp_path)).known() == {"a": (1, 2), "b": (), "c": (3,)} == other.known()


def test_other_targets_and_sources_have_choices_of_their_own(tmp_path: Path) -> None:
    Choices(host(), ObjectCache(tmp_path)).add({"a": (1,)})
    for target in (named("generic"), replace(host(), l2=host().l2 * 2), replace(host(), cpu="another")):
        assert Choices(target, ObjectCache(tmp_path)).known() == {}
    with mock.patch.object(choices, "FORMAT", 0):
        assert Choices(host(), ObjectCache(tmp_path)).known() == {}
    with mock.patch("backends.native.cache.generator_digest", lambda: "other sources"):
        assert Choices(host(), ObjectCache(tmp_path)).known() == {}


def test_damaged_files_count_as_nothing(tmp_path: Path, fake: type[FakeTrial]) -> None:
    Choices(host(), ObjectCache(tmp_path)).add({"a": (1,)})
    (path,) = tmp_path.rglob("*.o")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b'"a"', b'"b"'), b"{}"):
        path.write_bytes(damaged)
        assert Choices(host(), ObjectCache(tmp_path)).known() == {}
    cuts(Tuning(host(), ObjectCache(tmp_path), measures=True), planned(CASE))
    assert fake.made == 1 and Choices(host(), ObjectCache(tmp_path)).known()


@pytest.mark.parametrize(
    "payload",
    [b"\xff", b"[]", b"3", b'{"a": null}', b'{"a": [1.5]}', b'{"a": [-1]}', b'{"a": ["x"]}', b'{"a": [true]}'],
)
def test_other_contents_count_as_nothing(tmp_path: Path, payload: bytes) -> None:
    stored = Choices(host(), ObjectCache(tmp_path))
    ObjectCache(tmp_path).put([(stored._key, payload)])
    assert stored.known() == {}


def test_numbers_that_are_no_choice_change_nothing(fake: type[FakeTrial]) -> None:
    tuned = Tuning(host(), None, measures=True)
    cuts(tuned, planned(CASE))
    tuned.kernels([call_of(CASE)], 1)
    for words in ((7,), (0,) * 6, (9, 9)):
        tuned._choices.add(dict.fromkeys(tuned._choices.known(), words))
        assert not cuts(tuned, planned(CASE)) and not tuned.kernels([call_of(CASE)], 1)


def test_the_number_of_choices_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "MOST", 3)
    stored = Choices(host(), None)
    for name in "abcde":
        stored.add({name: ()})
    assert list(stored.known()) == ["c", "d", "e"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "case",
    [Case(20, 50, 30), Case(20, 50, 30, "cold", "gelu"), Case(20, 50, 30, "row", "bias"), Case(200, 300, 30, "column"),
     Case(20, 50, 30, dtype="int8"), Case.conv(9, 32, 50, 3), Case.conv(9, 3, 50, 3)],
    ids=str,
)  # fmt: skip
def test_trials_run_the_kernel(case: Case, threads: int) -> None:
    with mock.patch.object(trial, "COLD_BYTES", 1 << 20):
        call = planned(case)
        assert isinstance(call.kernel, gemm.GemmKernel)
        tried = Trial(call.kernel, call, number, threads, Pool(case.b == "cold"))
        rows = call.kernel.shape.grid.rows * call.kernel.matrix_unit.m
        cut = Blocking(rows, 48 * 16, rows, case.k, 1, call.kernel.spec.b_axis == "column", False)
        assert 0 < tried.calibrate(cut) < float("inf") and 1 <= tried.repeat <= trial.MOST_CALLS
        assert 0 < tried.nanoseconds(cut) < float("inf")


def test_trials_share_the_rows_among_groups() -> None:
    spec = GemmSpec(float32, float32, float32, 0, "row", "row", True, (), (), (), ("unit",), ends=int64)
    reads = (
        View("a", float32, (40, 30), (30, 1)),
        View("b", float32, (3, 30, 50), (1500, 50, 1)),
        View("ends", int64, (3,), (1,)),
    )
    call = planned(CASE, KernelCall(spec, reads, (View("c", float32, (40, 50), (50, 1)),)))
    assert isinstance(call.kernel, gemm.GemmKernel)
    tried = Trial(call.kernel, call, number, 1, Pool(False))
    assert tried._memory["ends"].view(np.int64)[:3].tolist() == [13, 26, 40]
    assert 0 < tried.calibrate(Blocking(8, 48, 8, 30, 1, False, False)) < float("inf")


def test_cold_weights_are_others_until_the_pool_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "COLD_BYTES", 1000)
    cold, warm = Pool(True), Pool(False)
    first = cold.places(300, 1)[0]
    assert [place - first for place in (*cold.places(300, 1), *cold.places(200, 2))] == [320, 640, 0]
    assert len(set(warm.places(300, 3))) == 1
    assert len(set(cold.places(5000, 2))) == 1, "there is room for one"


def test_what_is_too_large_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST_BYTES", 1 << 16)
    assert not cuts(Tuning(host(), None, measures=True), planned(CASE))


def products(tmp_path: Path, threads: int, tune: bool) -> Executable:
    """relu(x @ w) @ v with an unknown number of rows, and a product of known sizes."""
    b = Builder()
    x, y = b.input("x", TensorType(float32, (b.claim_symbol("rows"), 96))), b.input("y", TensorType(float32, (40, 96)))
    rng = np.random.default_rng(1)
    w, v = (b.constant(rng.standard_normal(shape).astype(np.float32)) for shape in ((96, 600), (600, 100)))
    first = b.emit("matmul", b.emit("matmul", x, w), v)
    return Executable(
        lower_graph(b.finish([first, b.emit("matmul", y, w)])), host(), Options(threads, tmp_path, tune=tune)
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_programs_give_the_same_bits_and_say_what_is_tuned(tmp_path: Path, threads: int) -> None:
    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((70, 96), (40, 96))]
    plain = products(tmp_path / "empty", threads, False)
    wanted = plain.run(inputs)
    assert not any(row.reason == "tuned" for row in plain.rows())

    def another(start: Choice | Grid, neighbours: Callable[[object], Sequence[object]], *_: object) -> object:
        return next(iter(neighbours(start)), start)

    with mock.patch.object(tuning, "climb", another):
        tuned = products(tmp_path, threads, True)
        found = tuned.run(inputs)
    assert [row.reason for row in tuned.rows() if isinstance(row.call, KernelCall)].count("tuned") == 3
    later = products(tmp_path, threads, False)
    for outputs in (found, later.run(inputs)):
        assert all(np.array_equal(got, want) for got, want in zip(outputs, wanted, strict=True))
    assert [row.kernel for row in later.rows()] == [row.kernel for row in tuned.rows()]
    assert [row.reason for row in later.rows()] == [row.reason for row in tuned.rows()]
    assert {row.kernel for row in later.rows()} != {row.kernel for row in plain.rows()}


def test_models_are_tuned_as_they_meet_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = torch.randn(20, 60)
    model = torch.nn.Sequential(torch.nn.Linear(60, 200), torch.nn.GELU(), torch.nn.Linear(200, 30)).eval()
    plain = runtime.compile(model, (x,), threads=1)(x)
    assert Choices(host(), ObjectCache(tmp_path / "sansuan")).known() == {}
    assert torch.equal(runtime.compile(model, (x,), threads=1, tune=True)(x), plain)
    assert Choices(host(), ObjectCache(tmp_path / "sansuan")).known()
