"""`python -m bench call`: what one call costs.

A tiny MLP called from Python in a row; and a program of tens of microseconds called every 10 ms, where threads that
went to sleep must not make two threads slower than one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from bench.compare import Timing, ratio
from bench.contest import Call, hold, prepare
from bench.contestants import entrants, present
from bench.report import Report, seconds, table
from bench.workload import load

PERIOD = 0.01  # seconds between two calls
CALLS = 20  # a round and contestant
SPARSE: dict[str, Any] = {"sizes": (512, 512, 512), "batch": 8}


def sparse_race(contestants: dict[str, Call], rounds: int) -> dict[str, Timing]:
    """Seconds a call when each comes PERIOD after the one before; contestants take turns, a median of CALLS a round."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            samples[name].append(statistics.median(_after_a_pause(call) for _ in range(CALLS)))
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def _after_a_pause(call: Call) -> float:
    time.sleep(PERIOD)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--contestants", default="sansuan,onnxruntime,openvino,torch", help="default: %(default)s")


def run(options: argparse.Namespace, report: Report) -> None:
    """The tiny MLP for each thread count; then the sparse calls, with 1 and 2 threads side by side."""
    names = present(options.contestants)
    tiny = load("mlp")
    for threads in options.threads:
        hold(tiny.contest(threads), entrants(tiny, names, threads), options.rounds, report)
    sparse(names, options.rounds, report)


def sparse(names: list[str], rounds: int, report: Report) -> None:
    """Sparse calls of a mid-sized MLP; torch sits out, its thread count being global."""
    work = load("mlp", **SPARSE)
    pooled = [name for name in names if name != "torch"]
    contestants = {
        f"{name} {threads}": call
        for threads in (1, 2)
        for name, call in prepare(work.contest(threads), entrants(work, pooled, threads))[0].items()
    }
    timings = sparse_race(contestants, rounds)
    rows = []
    for label, timing in timings.items():
        name, threads = label.split()
        rows.append([label, seconds(timing.median), f"{timing.spread:.0%}", str(ratio(timing, timings[f"{name} 1"]))])
        report.result(
            model="mlp-sparse", period=PERIOD, threads=int(threads), contestant=name, seconds=timing.median,
            best=timing.best, spread=timing.spread,
        )  # fmt: skip
    title = f"\n{work.flops / 1e6:.1f} MF called every {seconds(PERIOD)}"
    print(table(title, ["threads", "time", "spread", "this / 1 thread"], rows), flush=True)
