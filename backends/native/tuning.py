"""Which GEMM calls are cut in another way than `blocking` says, or run on another grid: as remembered or measured now.

Measured once for a question: unit, grid, kind of call, class of sizes, threads. Only time depends on the answer, never
a result (design rule 7). Grids shape code and packed weights, so they are chosen before weights are packed, for calls
whose sizes are known by then; cuts are chosen when a plan is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import cast

from backends.native import gemm
from backends.native.blocking import Blocking, blocking
from backends.native.cache import ObjectCache
from backends.native.candidates import Choice, Problem
from backends.native.choices import UNTUNED, Choices
from backends.native.kernel import NativeKernel
from backends.native.library import library
from backends.native.plan import PlannedCall
from backends.native.question import cut_question, grid_question
from backends.native.race import LEAST_ROUNDS, climb
from backends.native.target import Target
from backends.native.trial import RUN_NS, Pool, Trial, number
from backends.native.units import Grid
from compiler.dims import Size, is_static
from compiler.kernels import GemmSpec, HostCall, KernelCall

QUESTION_NS = 50_000_000  # spent on a question, where that is enough ...
LEAST_RUNS = 30  # ... for so many runs; else it is these ...
MOST_NS = 1_000_000_000  # ... as far as they fit into that
MOST_SCRATCH = 2  # last-level caches a cut may need as scratch, unless the untuned one needs more


class Tuning:
    """The choices for one target. measures: whether open questions are answered by measuring. Several threads may use
    one: they measure one after the other."""

    def __init__(self, target: Target, cache: ObjectCache | None, measures: bool) -> None:
        self.target, self.measures = target, measures
        self._cache, self._choices, self._measuring = cache, Choices(target, cache), threading.Lock()

    def cuts(
        self, calls: Sequence[PlannedCall], likenesses: Sequence[object], size: Callable[[Size], int], threads: int
    ) -> Mapping[object, Blocking]:
        """The tuned cuts of a plan, by likeness of its calls."""
        if not self.measures and not self._choices.known():
            return {}
        different = dict(zip(likenesses, calls, strict=True))
        gemms = {likeness: p for likeness, p in different.items() if _is_tried(p.call)}
        cold = _streams((cast(gemm.GemmKernel, p.kernel), p.call) for p in calls if isinstance(p.call.spec, GemmSpec))
        pool, found = Pool(cold), dict[object, Blocking]()
        for likeness, planned in gemms.items():
            kernel = cast(gemm.GemmKernel, planned.kernel)
            problem = Problem(
                kernel.matrix_unit, kernel.shape.grid, kernel.product(planned.call, size), self.target, threads
            )
            if problem.product.is_empty:
                continue
            question = cut_question(problem, kernel, planned.call, size, cold)

            def measured(planned: PlannedCall = planned, problem: Problem = problem) -> tuple[int, ...]:
                return self._best_cut(planned, problem, size, pool)

            choice = Choice.of_words(self._answer(question, measured))
            if choice is not None and (cut := problem.cut(choice)) != _untuned(problem):
                found[likeness] = cut
        return found

    def kernels(self, calls: Sequence[KernelCall | HostCall], threads: int) -> dict[KernelCall, NativeKernel]:
        """The calls that another grid than the unit's choice serves better, and their kernels."""
        if not self.measures and not self._choices.known():
            return {}
        gemms = [call for call in calls if isinstance(call, KernelCall) and _is_tried(call)]
        cold = _streams((gemm.select(call, self.target), call) for call in gemms)
        pool, found = Pool(cold), dict[KernelCall, NativeKernel]()
        for call in gemms:
            kernel = gemm.select(call, self.target)
            if len(kernel.matrix_unit.grids) < 2 or not _is_known(call) or kernel.product(call, number).is_empty:
                continue
            question = grid_question(kernel, call, threads, cold)

            def measured(call: KernelCall = call, kernel: gemm.GemmKernel = kernel) -> tuple[int, ...]:
                return self._best_grid(call, kernel, threads, pool)

            grid = Grid(*answer) if len(answer := self._answer(question, measured)) == 2 else kernel.shape.grid
            if grid != kernel.shape.grid and grid in kernel.matrix_unit.grids:
                found[call] = gemm.select(call, self.target, grid)
        return found

    def _answer(self, question: str, measured: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        answer = self._choices.known().get(question)
        if answer is not None or not self.measures:
            return answer or UNTUNED
        with self._measuring:
            answer = self._choices.known().get(question)  # another thread may have been faster
            if answer is None:
                answer = measured()
                self._choices.add({question: answer})
        return answer

    def _best_cut(
        self, planned: PlannedCall, problem: Problem, size: Callable[[Size], int], pool: Pool
    ) -> tuple[int, ...]:
        kernel, untuned = cast(gemm.GemmKernel, planned.kernel), _untuned(problem)
        start = problem.choice_of(untuned)
        most = max(MOST_SCRATCH * self.target.last_level, kernel.arguments(planned.call, size, problem.threads).scratch)

        def neighbours(choice: Choice) -> list[Choice]:
            near = problem.neighbours(choice)
            scratch = [kernel.arguments(planned.call, size, problem.threads, problem.cut(n)).scratch for n in near]
            return [n for n, needed in zip(near, scratch, strict=True) if needed <= most]

        if not neighbours(start):
            return UNTUNED
        try:
            trial = Trial(kernel, planned, size, problem.threads, pool)
        except MemoryError:
            return UNTUNED
        runs = runs_for(trial.calibrate(untuned))

        def measure(choice: Choice) -> float:
            return trial.nanoseconds(untuned if choice == start else problem.cut(choice))

        best = climb(start, neighbours, measure, runs)
        return UNTUNED if best == start else best.words()

    def _best_grid(self, call: KernelCall, kernel: gemm.GemmKernel, threads: int, pool: Pool) -> tuple[int, ...]:
        start, trials = kernel.shape.grid, dict[Grid, tuple[Trial, Blocking]]()

        def measure(grid: Grid) -> float:
            trial, cut = trials[grid]
            return trial.nanoseconds(cut)

        def add(grid: Grid) -> float:
            """Make a grid ready; how long a call takes."""
            other = gemm.select(call, self.target, grid)
            address = library(self.target).load([(other, call.spec)], self._cache)[other.name]
            trial = Trial(other, PlannedCall(call, other, address, 0), number, threads, pool)
            problem = Problem(other.matrix_unit, grid, other.product(call, number), self.target, threads)
            trials[grid] = trial, _untuned(problem)
            return trial.calibrate(trials[grid][1])

        try:
            runs = runs_for(add(start))
            if runs == 0:
                return UNTUNED
            others = [grid for grid in kernel.matrix_unit.grids if grid != start]
            for grid in others:
                add(grid)
        except MemoryError:
            return UNTUNED
        best = climb(start, lambda grid: others if grid == start else [], measure, runs)
        return UNTUNED if best == start else (best.rows, best.columns)


def runs_for(call_ns: float) -> int:
    """How many runs a question may take whose call takes that long; 0 where that is too long to try anything."""
    run = max(call_ns, RUN_NS)
    runs = max(int(QUESTION_NS / run), min(LEAST_RUNS, int(MOST_NS / run)))
    return runs if runs >= 4 * LEAST_ROUNDS else 0


def _untuned(problem: Problem) -> Blocking:
    return blocking(problem.unit, problem.grid, problem.product, problem.target, problem.threads)


def _streams(calls: Iterable[tuple[gemm.GemmKernel, KernelCall]]) -> bool:
    """Whether the weights of these calls come from memory in every run, there being more than the last-level cache
    holds."""
    weights = {call.reads[1]: kernel for kernel, call in calls if kernel.spec.constant_b}
    total = 0
    for view, kernel in weights.items():
        total += view.dtype.bytes * prod(
            number(n) for n, step in zip(view.shape, view.strides, strict=True) if step != 0
        )
        if total > kernel.target.last_level:
            return True
    return False


def _is_tried(call: KernelCall) -> bool:
    """Whether other cuts and grids are tried: of products, but for those with B in codes, which `blocking` cuts."""
    return isinstance(call.spec, GemmSpec) and call.spec.codes is None


def _is_known(call: KernelCall) -> bool:
    views = (*call.reads, *call.writes)
    return all(is_static((*view.shape, *view.strides, view.offset)) for view in views) and is_static(call.params)
