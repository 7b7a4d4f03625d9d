"""Timing contestants against each other on a noisy machine: interleaved rounds, medians, paired ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PAUSE = 0.01  # seconds between contestants
QUIET = 0.1  # of a core: what a process that waits uses at most
MOST_PAUSES = 30
LONG = 0.1  # seconds of a call to which what ran before makes no difference


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one sample a round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        return min(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range as a fraction of the median."""
        low, high = np.percentile(self.samples, (25, 75))
        return float(high - low) / self.median


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contestant took than another: the median over rounds, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def race(contestants: Mapping[str, Callable[[], Any]], rounds: int = 15, sample: float = 0.02) -> dict[str, Timing]:
    """Time every contestant once a round, for about `sample` seconds each, the order rotating from round to round.

    Before each sample the process comes to rest and, where calls are not long, one call is not timed, so that nobody
    pays for the previous contestant's caches and spinning threads.
    """
    lasting = {name: _lasting(call) for name, call in contestants.items()}
    calls = {name: max(1, round(sample / seconds)) for name, seconds in lasting.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            _settle()
            if lasting[name] < LONG:
                contestants[name]()
            samples[name].append(_seconds_per_call(contestants[name], calls[name]))
        order.append(order.pop(0))
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def ratio(ours: Timing, theirs: Timing) -> Ratio:
    """Our time over theirs, paired by round: noise that lasts a round hits both."""
    low, median, high = np.percentile(np.divide(ours.samples, theirs.samples), (25, 50, 75))
    return Ratio(float(median), float(low), float(high))


def relative_error(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """The largest ||found - truth|| / ||truth|| over the outputs; infinite where shapes differ or a NaN appears."""
    worst = 0.0
    for result, exact in zip(found, truth, strict=True):
        if result.shape != exact.shape:
            return math.inf
        norm = float(np.linalg.norm(exact.ravel())) or 1.0
        error = float(np.linalg.norm((result.astype(exact.dtype) - exact).ravel())) / norm
        worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def _settle() -> None:
    """Wait until nothing runs in this process: pools of threads spin after a call, some for 50 ms, on cores the next
    contestant needs."""
    for _ in range(MOST_PAUSES):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < QUIET * PAUSE:
            return


def _lasting(call: Callable[[], Any]) -> float:
    """Seconds a call takes that is not the first."""
    call()
    seconds = _seconds_per_call(call, 1)
    return seconds if seconds >= LONG else _seconds_per_call(call, 1)


def _seconds_per_call(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
