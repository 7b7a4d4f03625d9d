"""The same work on a number of threads at once, each on a core of its own, timed from start to the last one's end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Work = Callable[[], object]


def elapsed(prepare: Callable[[int], Work], threads: int) -> float:
    """Seconds from the first thread's start to the last one's end of doing the work prepare(0) .. prepare(threads - 1).

    Each is prepared on the thread that does it, so that memory is near. Work must let go of Python's lock, as foreign
    functions do, and last some milliseconds: threads start tens of microseconds apart.
    """
    if threads == 1:
        start, end = _timed(prepare(0))
        return end - start
    barrier = threading.Barrier(threads)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def run(number: int) -> tuple[float, float]:
        if cores:  # the scheduler may leave a new thread on its parent's core for milliseconds
            os.sched_setaffinity(0, {cores[number % len(cores)]})
        work = prepare(number)
        barrier.wait()
        return _timed(work)

    with ThreadPoolExecutor(threads) as pool:
        starts, ends = zip(*pool.map(run, range(threads)), strict=True)
    return max(ends) - min(starts)


def _timed(work: Work) -> tuple[float, float]:
    start = time.perf_counter()
    work()
    return start, time.perf_counter()
