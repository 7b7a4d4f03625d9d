"""The search for the fastest way: how often it measures, and what it takes to win."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from backends.native import tuning
from backends.native.race import MARGIN, climb, race


class Clock:
    """Times by way, and how often each was asked for."""

    def __init__(self, time: Callable[[int], float]) -> None:
        self.time, self.asked = time, list[int]()

    def __call__(self, way: int) -> float:
        self.asked.append(way)
        return self.time(way)


def beside(way: int) -> list[int]:
    return [way + 1, way - 1, way + 3, way - 3]


@pytest.mark.parametrize("runs", range(120))
def test_no_more_measurements_than_allowed(runs: int) -> None:
    for time in (lambda way: 1.0, lambda way: 100.0 - way, lambda way: 100.0 + abs(way - 2), lambda way: abs(way) + 1):
        clock = Clock(time)
        climb(0, beside, clock, runs)
        assert len(clock.asked) <= runs


def test_neighbours_of_the_best_are_tried_in_turn() -> None:
    assert climb(0, beside, lambda way: 100.0 - 10 * way, 250) == 9
    assert climb(0, beside, lambda way: 100.0 + abs(way - 1) * 10, 250) == 1
    assert climb(0, lambda way: [], lambda way: 1.0, 250) == 0


def test_another_way_has_to_be_faster_by_the_margin() -> None:
    for gain, winner in ((MARGIN / 2, 0), (2 * MARGIN, 1)):
        assert climb(0, lambda way: [1], lambda way, gain=gain: 1 - gain * way, 100) == winner


def test_one_lucky_sample_wins_nothing() -> None:
    lucky: Iterator[float] = itertools.chain([0.5], itertools.repeat(1.0))
    assert climb(0, lambda way: [1], lambda way: next(lucky) if way else 1.0, 100) == 0


def test_what_is_hopeless_is_measured_twice() -> None:
    clock = Clock(lambda way: 2.0 if way == 1 else 1 - way / 100)
    assert race([0, 1, 2, 9], clock, 100)[0] == 9
    assert clock.asked.count(1) == 2 and clock.asked.count(9) == clock.asked.count(0) == 5
    assert clock.asked[:4] == [0, 1, 2, 9]


def test_runs_follow_from_how_long_a_call_takes() -> None:
    assert tuning.runs_for(90) == tuning.runs_for(tuning.RUN_NS) == tuning.QUESTION_NS / tuning.RUN_NS
    assert tuning.runs_for(10_000_000) == tuning.LEAST_RUNS
    assert tuning.runs_for(100_000_000) == 10
    assert tuning.runs_for(tuning.MOST_NS) == 0
