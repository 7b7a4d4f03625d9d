"""Recurrences against the reference's emulate mode, bit for bit, over units, sizes at register edges, cuts, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from backends.native import units
from backends.native.recurrence import select
from backends.native.recurrence_product import ProductShape, registers_of
from backends.native.target import Target
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import apply
from compiler.kernels import KernelCall
from compiler.ops.recurrent_cells import GRU, LSTM, RNN, Cell, Elements, settings
from compiler.recurrence import Phase, RecurrenceSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, view_of

PLAIN = {"activations": None, "activation_alpha": None, "activation_beta": None, "clip": None, "gate_order": None}
CELLS: dict[str, tuple[Cell, dict[str, Any], int, bool]] = {
    "lstm": (LSTM, {"input_forget": 0}, 0, False),
    "lstm peepholes": (LSTM, {"input_forget": 0}, 3, False),
    "lstm projected": (LSTM, {"input_forget": 1}, 0, True),
    "gru": (GRU, {"linear_before_reset": 0}, 0, False),
    "gru linear": (GRU, {"linear_before_reset": 1}, 1, False),
    "rnn": (RNN, {}, 0, False),
}


@dataclass
class Case:
    """A call of a cell: arrays as the spec has them, all random."""

    rng: np.random.Generator
    name: str
    sizes: tuple[int, int, int, int]  # T, D, B, H
    dtype: DType = dtypes.float32
    backward: Sequence[int] = (0, 1)
    matrices: str = "constant"
    lengths: np.ndarray | None = None
    first: bool = True
    spec: RecurrenceSpec = field(init=False)
    reads: list[np.ndarray] = field(init=False)
    shapes: list[tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        cell, attrs, parameters, projected = CELLS[self.name]
        parts = cell.parts(self.dtype, parameters, settings({**PLAIN, **attrs}, cell.functions, 0, 1), projected)
        t, d, b, h = self.sizes
        size = 3 if projected else h
        widths = (size, h)[: cell.states]
        phases = tuple(part.phase for part in parts)
        self.spec = RecurrenceSpec(
            self.dtype, cell.states, cell.gates, parameters, phases, (self.matrices,) * len(phases),
            (self.first,) * cell.states, None if self.lengths is None else dtypes.from_numpy(self.lengths.dtype),
        )  # fmt: skip
        rows = [h if phase.source else size for phase in phases]
        columns = [size if 0 in phase.targets else h for phase in phases]
        matrices = [self._matrix(d, k, p.gates, n) for p, k, n in zip(phases, rows, columns, strict=True)]
        self.reads = [
            self.draw(t, d, b, cell.gates, h),
            *([] if self.lengths is None else [self.lengths]),
            *matrices,
            *(self.draw(d, b, n) for n in widths if self.first),
            *(self.draw(d, h) for _ in range(parameters)),
        ]
        self.shapes = [(t, d, b, size), *((d, b, n) for n in widths)]

    def draw(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(-1, 1, shape).astype(self.dtype.numpy)

    def _matrix(self, d: int, k: int, gates: int, n: int) -> np.ndarray:
        """[D, K, gates, N] in the layout that `matrices` names."""
        if self.matrices == "column":
            return self.draw(d, gates, n, k).transpose(0, 3, 1, 2)
        if self.matrices == "general":
            return self.draw(d, gates, n, k, 2)[..., 1].transpose(0, 3, 1, 2)
        return self.draw(d, k, gates, n)

    def run(self, target: Target | None = None, threads: int = 1) -> list[np.ndarray]:
        """The writes; canaries checked."""
        found = [guarded(shape, self.dtype.numpy) for shape in self.shapes]
        params = self.backward[: self.sizes[1]]
        writes = [array for array, _ in found]
        assert run(select, self.spec, self.reads, writes, target=target, threads=threads, params=params) == 0
        for _, memory in found:
            assert_guards(memory)
        return writes

    def emulated(self) -> list[np.ndarray]:
        writes = [np.full(shape, 7, self.dtype.numpy) for shape in self.shapes]
        views = [view_of(array, str(i)) for i, array in enumerate((*self.reads, *writes))]
        count = len(self.reads)
        call = KernelCall(self.spec, tuple(views[:count]), tuple(views[count:]), tuple(self.backward[: self.sizes[1]]))
        run_call(call, self.reads, writes, int, "emulate")
        return writes

    def check(self, **how: Any) -> None:
        for found, expected in zip(self.run(**how), self.emulated(), strict=True):
            assert_same(found, expected)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_bit_for_bit(rng: np.random.Generator, name: str, dtype: DType, target: Target) -> None:
    lanes = target.vector // dtype.bytes
    for sizes in [(2, 1, 1, 1), (3, 2, 2, lanes - 1), (2, 1, 7, lanes), (1, 2, 9, 3 * lanes + 5)]:
        Case(rng, name, sizes, dtype).check(target=target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("matrices", ["row", "column", "general"])
def test_fresh_matrices_are_packed_in_the_call(rng: np.random.Generator, matrices: str, target: Target) -> None:
    for name in ("lstm projected", "gru"):
        Case(rng, name, (3, 2, 5, target.vector // 4 * 2 + 3), matrices=matrices).check(target=target)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("name", CELLS)
def test_lengths_end_rows(rng: np.random.Generator, name: str, dtype: type) -> None:
    lengths = np.array([0, 4, 2, 9, -1, 1], dtype)
    case = Case(rng, name, (4, 2, 6, 19), lengths=lengths)
    case.check(threads=2)
    y, last = case.run()[:2]
    assert (y[2:, :, 2] == 0).all() and (y[:, :, 0] == 0).all()
    assert_same(last[:, 0], case.reads[2 + len(case.spec.phases)][:, 0])
    assert_same(y[1, 0, 2], last[0, 2])


def test_no_row_has_a_step_left(rng: np.random.Generator) -> None:
    case = Case(rng, "lstm", (3, 1, 2, 5), lengths=np.zeros(2, np.int64), first=False)
    assert all((array == 0).all() for array in case.run())


def test_batch_first_and_other_strides(rng: np.random.Generator) -> None:
    case = Case(rng, "gru", (5, 2, 3, 18), lengths=np.array([[5, 0], [3, 0], [4, 0]])[:, 0])
    expected = case.emulated()
    case.reads[0] = np.ascontiguousarray(case.reads[0].transpose(2, 0, 1, 3, 4)).transpose(1, 2, 0, 3, 4)
    y, memory = guarded(case.shapes[0], np.float32, (2, 0, 1, 3))
    last = np.zeros(case.shapes[1], np.float32)
    assert run(select, case.spec, case.reads, [y, last], params=(0, 1), threads=2) == 0
    assert_guards(memory)
    assert_same(np.ascontiguousarray(y), expected[0])
    assert_same(last, expected[1])


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_threads_do_not_show(rng: np.random.Generator, name: str) -> None:
    case = Case(rng, name, (6, 2, 33, 40))
    one, two, many = (case.run(threads=threads) for threads in (1, 2, 7))
    for a, b, c in zip(one, two, many, strict=True):
        assert_same(a, b)
        assert_same(a, c)


def test_a_rows_result_does_not_depend_on_its_batch(rng: np.random.Generator) -> None:
    case = Case(rng, "lstm", (4, 1, 13, 24))
    batch = case.run()
    x, matrix, *first = case.reads
    case.sizes, case.shapes = (4, 1, 1, 24), [(4, 1, 1, 24), (1, 1, 24), (1, 1, 24)]
    for i in (0, 5, 12):
        case.reads = [x[:, :, i : i + 1], matrix, *(a[:, i : i + 1] for a in first)]
        for found, expected in zip(case.run(), batch, strict=True):
            assert_same(found[..., 0, :], expected[..., i, :])


def test_many_rows_are_cut_into_blocks(rng: np.random.Generator) -> None:
    case = Case(rng, "rnn", (2, 1, 131, 5))
    assert select(call_of(case), TARGETS[0]).arguments(call_of(case), int, 1).words[2] == 3
    case.check()


def call_of(case: Case) -> KernelCall:
    views = [view_of(array, str(i)) for i, array in enumerate(case.reads)]
    writes = [view_of(np.zeros(shape, case.dtype.numpy), f"w{i}") for i, shape in enumerate(case.shapes)]
    return KernelCall(case.spec, tuple(views), tuple(writes), tuple(case.backward[: case.sizes[1]]))


@pytest.mark.parametrize("sizes", [(0, 1, 2, 3), (3, 1, 0, 3), (3, 2, 2, 0)], ids=["steps", "rows", "elements"])
def test_nothing_to_do(rng: np.random.Generator, sizes: tuple[int, int, int, int]) -> None:
    Case(rng, "lstm", sizes).check()


def test_outputs_over_several_vectors_of_one_state(rng: np.random.Generator) -> None:
    e = Elements(dtypes.float32, 1, 2, 0)
    # The second phase reads what the first wrote in this step.
    up = Phase(0, 1, (1,), (apply("max", e.x(0), e.sum(0)),))
    down = Phase(1, 1, (0,), (e.vector(1) * 0.5 - e.sum(0) * e.vector(0),))
    case = Case(rng, "rnn", (4, 1, 3, 21))
    case.spec = RecurrenceSpec(dtypes.float32, 1, 1, 0, (up, down), ("constant",) * 2, (True,), None)
    case.reads = [case.reads[0], case.draw(1, 21, 1, 21), case.draw(1, 21, 1, 21), case.draw(1, 3, 21)]
    case.check()


def test_nan_and_infinity_stay_in_their_rows(rng: np.random.Generator) -> None:
    case = Case(rng, "gru linear", (3, 1, 4, 9))
    case.reads[0][1, 0, 2, 1, 4], case.reads[0][0, 0, 3, 2, 0] = np.nan, np.inf
    case.check()
    assert np.isnan(case.run()[0]).any((0, 1, 3)).tolist() == [False, False, True, False]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_products_fit_the_registers(target: Target) -> None:
    for dtype in (dtypes.float32, dtypes.float64):
        unit = units.select(target, dtype, dtype, dtype)[0]
        registers = registers_of(unit)
        assert registers == (32 if target.vector == 64 else 16)
        for gates in (1, 2, 3, 4):
            for columns in (1, unit.n + 1, 5 * unit.n, 640):
                shape = ProductShape.of(unit, gates, columns, 100, True)
                counts = [rows for rows, _ in shape.rows]
                assert counts == list(range(counts[0], 0, -1)) and counts[0] > 1
                assert all(shape.group % p == 0 and r * p * gates < registers for r, p in shape.rows)
