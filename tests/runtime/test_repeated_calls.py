"""Programs whose sizes come from data, or that have control flow, called again and again with changing sizes: right
every time, and memory stays where it is."""

from __future__ import annotations

import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime.program import Program
from tests.runtime.repeated_models import CASES, Repeated

CALLS = 900  # of each model: with those to warm up, ten thousand together
WARM, WARM_COMPILING = 250, 60  # calls until every cache is as full as it gets
PLANS = 64  # a program keeps
# Bytes more that allocators may keep. Their heaps grow in steps that come late and then stay (3.5 MB in 10,000 calls,
# none in the 10,000 after them): of 900 calls a leak of 4 KiB each is found, of 10,000 one of 900 bytes each.
GROWTH, GROWTH_LONG = 3 << 20, 8 << 20
OBJECTS = 400


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def run(case: Repeated, program: Program, rng: np.random.Generator, calls: int) -> None:
    """Every call checked."""
    for _ in range(calls):
        arrays = case.inputs(rng)
        for found, expected in zip(program(*arrays), case.expected(*arrays), strict=True):
            assert found.dtype == expected.dtype and np.array_equal(found, expected), [array.shape for array in arrays]


def repeat(name: str, calls: int, growth: int) -> None:
    """`calls` calls, before which and behind which memory is looked at: `growth` bytes more at most."""
    case = next(case for case in CASES if case.name == name)
    rng = np.random.default_rng(calls)
    program = runtime.compile(case.model, threads=1)
    run(case, program, rng, WARM if case.share == 1 else WARM_COMPILING)
    memory, objects = resident(), len(gc.get_objects())
    run(case, program, rng, int(case.share * calls))
    grown, more = resident() - memory, len(gc.get_objects()) - objects
    assert grown < growth, f"{grown} bytes more after {calls} calls"
    assert more < OBJECTS, f"{more} objects more after {calls} calls"
    statistics = program.statistics()
    assert statistics is not None
    assert statistics.plans <= PLANS * (1 + case.bodies)


def repeat_alone(name: str, calls: int, growth: int) -> None:
    """In a process of its own: what other tests left behind comes and goes by megabytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(repeat, name, calls, growth).result()


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_calls(name: str) -> None:
    repeat_alone(name, CALLS, GROWTH)


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_ten_thousand_calls(name: str) -> None:
    repeat_alone(name, 10_000, GROWTH_LONG)
