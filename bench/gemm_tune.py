"""How much `tune` gains over the untuned choice, kernel by kernel: `python -m bench.gemm_tune [--threads 1,2]`.

Every product is tuned as a program with tune=True would, nothing being remembered; then the tuned and the untuned
choice take turns, run by the executor. The ratio is untuned over tuned time, paired by round, with its quartiles:
what is above 1.03 is a shape that the untuned choice serves badly.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from backends.native import gemm
from backends.native.blocking import Blocking, blocking
from backends.native.executor import executor
from backends.native.library import library
from backends.native.plan import PlannedCall
from backends.native.target import Target, host
from backends.native.trial import Pool, Trial, number
from backends.native.tuning import Tuning
from bench import environment, shapes
from bench.gemm_kernels import CASES, Case, call_of
from bench.report import seconds, table
from compiler.kernels import KernelCall

BOUND = 1.03
RUNS = 3  # a sample is the best of so many
LEAST_WEIGHTS = 2  # last-level caches of weights in a program whose weights are cold


@dataclass(frozen=True)
class Compared:
    """A product untuned and tuned: ns a call, one sample a round; both are the same where tuning changes nothing."""

    case: Case
    threads: int
    untuned: Sequence[float]
    tuned: Sequence[float]
    choice: str

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Untuned over tuned time: quartiles."""
        low, median, high = np.percentile(np.divide(self.untuned, self.tuned), (25, 50, 75))
        return float(low), float(median), float(high)

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        low, median, high = self.ratios
        times = [seconds(statistics.median(samples) * 1e-9) for samples in (self.untuned, self.tuned)]
        return (str(self.case), str(self.threads), *times, f"{median:.3f} [{low:.3f}, {high:.3f}]", self.choice)


COLUMNS = ("product", "threads", "untuned", "tuned", "untuned / tuned [quartiles]", "choice")


def compare(case: Case, threads: int, rounds: int, target: Target) -> Compared:
    """Tune one product, then time both choices."""
    call = call_of(case)
    cold = case.b == "cold"
    kernel = gemm.select(call, target)
    copies = 1 + int(LEAST_WEIGHTS * target.last_level) // kernel.packed_bytes(call, number) if cold else 1
    calls = [_reading(call, f"b{i}") for i in range(copies)]
    tuning = Tuning(target, None, measures=True)
    other = tuning.kernels(calls, threads).get(calls[0], kernel)
    assert isinstance(other, gemm.GemmKernel)
    planned = [_planned(other, each) for each in calls]
    cut = tuning.cuts(planned, [other.name] * copies, number, threads).get(other.name)
    default, pool = _untuned(kernel, call, threads), Pool(cold)
    chosen = cut or _untuned(other, call, threads)
    first = Trial(kernel, _planned(kernel, call), number, threads, pool)
    first.calibrate(default)
    second = Trial(other, _planned(other, call), number, threads, pool)
    second.calibrate(chosen)
    untuned, tuned = [], []
    for _ in range(rounds):
        untuned.append(min(first.nanoseconds(default) for _ in range(RUNS)))
        tuned.append(min(second.nanoseconds(chosen) for _ in range(RUNS)))
    return Compared(case, threads, untuned, tuned, _words(kernel, default, other, chosen))


def _reading(call: KernelCall, buffer: str) -> KernelCall:
    a, b, *others = call.reads
    return replace(call, reads=(a, replace(b, buffer=buffer), *others))


def _planned(kernel: gemm.GemmKernel, call: KernelCall) -> PlannedCall:
    address = library(kernel.target).load([(kernel, call.spec)], None)[kernel.name]
    return PlannedCall(call, kernel, address, 0)


def _untuned(kernel: gemm.GemmKernel, call: KernelCall, threads: int) -> Blocking:
    product = kernel.product(call, number)
    return blocking(kernel.matrix_unit, kernel.shape.grid, product, kernel.target, threads)


def _words(kernel: gemm.GemmKernel, default: Blocking, other: gemm.GemmKernel, chosen: Blocking) -> str:
    """What tuning changed."""
    grids = [f"{k.shape.grid.rows}x{k.shape.grid.columns}" for k in (kernel, other)]
    changes = [f"grid {grids[0]} -> {grids[1]}"] if grids[0] != grids[1] else []
    for field in Blocking.__dataclass_fields__:
        before, after = getattr(default, field), getattr(chosen, field)
        if before != after:
            changes.append(f"{field} {before} -> {after}")
    return ", ".join(changes) or "the same"


def summary(results: Sequence[Compared]) -> str:
    """How many products are beyond the bound, and the worst."""
    beyond = [result for result in results if result.ratios[1] > BOUND]
    worst = max(results, key=lambda result: result.ratios[1])
    mean = statistics.geometric_mean([result.ratios[1] for result in results])
    text = f"untuned over tuned: mean {mean:.3f}, worst {worst.ratios[1]:.3f} ({worst.case}, {worst.threads} threads)"
    return f"{text}; {len(results) - len(beyond)} of {len(results)} products within {BOUND - 1:.0%}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each product and number of threads."""
    parser = argparse.ArgumentParser(prog="python -m bench.gemm_tune", description=__doc__)
    parser.add_argument("--shapes", default="", help="sets of bench/shapes.py or MxNxK, instead of gemm_kernels' cases")
    parser.add_argument("--dtype", default="float32", help="with --shapes: comma-separated (default: %(default)s)")
    parser.add_argument("--b", default="constant", help="with --shapes: constant, cold, row, column, comma-separated")
    parser.add_argument("--only", default="", help="products whose text contains this")
    parser.add_argument("--threads", default="1", help="comma-separated counts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="samples of either (default: %(default)s)")
    options = parser.parse_args(arguments)
    cases: Sequence[Case] = CASES
    if options.shapes:
        kinds = [(b, dtype) for dtype in options.dtype.split(",") for b in options.b.split(",")]
        asked = shapes.parse(options.shapes)
        cases = [Case(shape.m, shape.n, shape.k, b, dtype=dtype) for b, dtype in kinds for shape in asked]
    print(environment.header(environment.describe()), flush=True)
    executor()
    results = []
    for case in cases:
        for threads in map(int, options.threads.split(",")):
            if options.only in str(case):
                results.append(compare(case, threads, options.rounds, host()))
                print("  ".join(results[-1].cells), flush=True)
    if results:
        print("\n" + table("", COLUMNS, [result.cells for result in results]) + "\n\n" + summary(results))


if __name__ == "__main__":
    main()
