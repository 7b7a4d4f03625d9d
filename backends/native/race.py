"""A search for the fastest of a few ways to do the same, by so many measurements at most. Only `measure` knows time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

Way = TypeVar("Way")
MARGIN = 0.02  # how much faster another way has to be to be taken
HOPELESS = 1.15  # times the best: what is slower is not measured again
ROUNDS = 5  # samples of those that are left in the end
LEAST_ROUNDS = 2
CLIMBS = 3  # times that the neighbours of the best are looked at


def climb(start: Way, neighbours: Callable[[Way], Sequence[Way]], measure: Callable[[Way], float], runs: int) -> Way:
    """The best way found from `start` on by at most `runs` calls of `measure`. Other ways win only by MARGIN, twice:
    over the best before, and over `start` at the end, there by the median too."""
    kept = min(2 * ROUNDS, max(2, runs // 3))  # for the end
    best, left, tried = start, runs - kept, {start}
    for _ in range(CLIMBS):
        fresh = [way for way in neighbours(best) if way not in tried][: max(0, left // LEAST_ROUNDS - 1)]
        if not fresh:
            break
        tried.update(fresh)
        found, spent = race([best, *fresh], measure, left)
        left -= spent
        if found == best:
            break
        best = found
    if best == start:
        return start
    pairs = [(measure(start), measure(best)) for _ in range(kept // 2)]
    before, after = zip(*pairs, strict=True)
    holds = min(after) < (1 - MARGIN) * min(before) and median(after) < median(before)
    return best if holds else start


def race(ways: Sequence[Way], measure: Callable[[Way], float], runs: int) -> tuple[Way, int]:
    """The fastest by the best of a few samples, taken in turn so that a busy machine hurts all alike, and how many
    there were: at most `runs`. It has to beat the first by MARGIN."""
    best: dict[Way, float] = {way: float("inf") for way in ways}
    alive, spent = list(ways), 0
    for number in range(ROUNDS):
        if spent + len(alive) > runs:
            break
        for way in alive:
            best[way] = min(best[way], measure(way))
        spent += len(alive)
        limit = HOPELESS * min(best.values()) if number + 1 >= LEAST_ROUNDS else float("inf")
        alive = [way for way in alive if best[way] <= limit or way == ways[0]]
        if alive == [ways[0]]:
            break
    fastest = min(best, key=lambda way: best[way])
    return (fastest if best[fastest] < (1 - MARGIN) * best[ways[0]] else ways[0]), spent
