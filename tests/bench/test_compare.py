"""The arithmetic of the bench: errors, ratios, interleaving, tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.compare import Timing, race, ratio, relative_error
from bench.contest import fastest
from bench.report import seconds, table


def test_relative_error_is_of_the_worst_output() -> None:
    truth = [np.array([3.0, 4.0]), np.array([1.0])]
    assert relative_error([np.array([3.0, 4.5]), np.array([1.0])], truth) == pytest.approx(0.1)
    assert relative_error([np.array([3.0, 4.0]), np.array([math.nan])], truth) == math.inf
    assert relative_error([np.array([3.0, 4.0]), np.array([[1.0]])], truth) == math.inf


def test_a_number_of_outputs_too_few_is_no_result() -> None:
    with pytest.raises(ValueError):
        relative_error([], [np.zeros(1)])


def test_ratio_is_paired_by_round() -> None:
    quiet_then_noisy = ratio(Timing((1.0, 1.0, 10.0)), Timing((2.0, 2.0, 20.0)))
    assert (quiet_then_noisy.low, quiet_then_noisy.median, quiet_then_noisy.high) == (0.5, 0.5, 0.5)
    assert str(ratio(Timing((3.0,)), Timing((2.0,)))) == "1.50x [1.50, 1.50]"


def test_timing_summaries() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 5.0))
    assert (timing.median, timing.best, timing.spread) == (3.0, 1.0, pytest.approx(2 / 3))


def test_race_samples_every_contestant_once_a_round_in_rotating_order() -> None:
    calls: list[str] = []
    timings = race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, sample=0.0)
    assert {name: len(timing.samples) for name, timing in timings.items()} == {"a": 3, "b": 3}
    # Finding out how long calls take is three calls each; then one call that is not timed and one that is, each turn.
    assert calls == list("aaabbb") + list("aabb") + list("bbaa") + list("aabb")


def test_fastest_leaves_our_own_out() -> None:
    timings = {"sansuan": Timing((1.0,)), "torch": Timing((3.0,)), "numpy": Timing((2.0,))}
    assert fastest(timings) == "numpy"
    assert fastest({"sansuan": Timing((1.0,))}) == ""


def test_table_aligns_wide_characters() -> None:
    lines = table("title", ["", "time"], [["三算", "1 ms"], ["numpy", "12 ms"]]).splitlines()
    assert lines == ["title", "        time", "-----  -----", "三算    1 ms", "numpy  12 ms"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2 s"),
        (0.01234, "12.3 ms"),
        (9.996e-4, "1 ms"),
        (9.99e-4, "999 us"),
        (1234.0, "1234 s"),
        (4e-5, "40 us"),
        (5e-8, "50 ns"),
        (0.0, "0 ns"),
    ],
)
def test_seconds_choose_their_unit(value: float, text: str) -> None:
    assert seconds(value) == text
