"""What came of one product: times of every contestant, as JSON fields; and what came of many, summed up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.compare import Ratio, Timing, ratio
from bench.contest import fastest
from bench.shapes import Shape

OURS = "sansuan"
AS_FAST = 0.97  # of the best peer: what noise leaves of an equal


@dataclass(frozen=True)
class Outcome:
    """Seconds a product (not a call, which does `copies` of them) and contestant. `peak` in operations, `bandwidth` in
    bytes a second, that of `level`, where the weights live that a call reads."""

    shape: Shape
    dtype: str
    form: str
    threads: int
    copies: int
    intensity: float
    weight_bytes: int  # of one product
    peak: float
    level: str
    bandwidth: float  # 0 where it does not matter
    timings: Mapping[str, Timing]
    errors: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def peer(self) -> str:
        """The fastest contestant that is not ours; '' if there is none."""
        return fastest(self.timings)

    def against(self, name: str) -> Ratio | None:
        """That contestant's time over ours, paired by round (above 1: ours is faster); None if one is missing."""
        if name not in self.timings or OURS not in self.timings:
            return None
        return ratio(self.timings[name], self.timings[OURS])

    @property
    def advantage(self) -> Ratio | None:
        """The best peer's time over ours."""
        return self.against(self.peer)

    def rate(self, name: str) -> float:
        """Operations a second, by the median."""
        return self.shape.operations / self.timings[name].median

    def of_peak(self, name: str) -> float:
        """The part of the peak that is."""
        return self.rate(name) / self.peak

    def of_bandwidth(self, name: str) -> float:
        """The part of the bandwidth that reading the weights takes."""
        return self.weight_bytes / self.timings[name].median / self.bandwidth

    def records(self) -> list[dict[str, Any]]:
        """The fields of a JSON line for each contestant, those that were refused first."""
        shape = self.shape
        common = {
            "m": shape.m, "n": shape.n, "k": shape.k, "b": self.form, "dtype": self.dtype, "threads": self.threads,
            "copies": self.copies,
        }  # fmt: skip
        lines: list[dict[str, Any]] = [
            {**common, "contestant": name, "refused": why} for name, why in self.refused.items()
        ]
        for name, timing in self.timings.items():
            line = {
                **common, "contestant": name, "seconds": timing.median, "best": timing.best, "spread": timing.spread,
                "flops_per_second": self.rate(name), "peak": self.peak, "percent_of_peak": 100 * self.of_peak(name),
                "percent_at_best": 100 * shape.operations / timing.best / self.peak, "level": self.level,
                "intensity": self.intensity, "error": self.errors.get(name), "note": self.notes.get(name, ""),
                "best_peer": self.peer,
            }  # fmt: skip
            if self.bandwidth:
                line |= {"bandwidth": self.bandwidth, "percent_of_bandwidth": 100 * self.of_bandwidth(name)}
            if (compared := self.against(name)) is not None:
                line["over_sansuan"] = [compared.median, compared.low, compared.high]
            lines.append(line)
        return lines


@dataclass(frozen=True)
class Summary:
    """Of one element type, form of B and number of threads: the geometric mean of the best peer's time over ours, the
    shape where it is least, and the part of the shapes where it is AS_FAST at least."""

    dtype: str
    form: str
    threads: int
    shapes: int
    mean: float
    worst: float
    worst_shape: Shape
    worst_peer: str
    as_fast: float

    def record(self) -> dict[str, Any]:
        """The fields of its JSON line."""
        return {
            "summary": "best peer / sansuan", "dtype": self.dtype, "b": self.form, "threads": self.threads,
            "shapes": self.shapes, "geometric_mean": self.mean, "worst": self.worst,
            "worst_shape": str(self.worst_shape), "worst_peer": self.worst_peer, "as_fast": self.as_fast,
        }  # fmt: skip


def summarize(outcomes: Iterable[Outcome]) -> list[Summary]:
    """A summary of every group that has a shape on which we and a peer competed, in the order they came."""
    groups: dict[tuple[str, str, int], list[tuple[float, Outcome]]] = {}
    for outcome in outcomes:
        if (advantage := outcome.advantage) is not None:
            key = (outcome.dtype, outcome.form, outcome.threads)
            groups.setdefault(key, []).append((advantage.median, outcome))
    return [_summary(key, found) for key, found in groups.items()]


def _summary(key: tuple[str, str, int], found: Sequence[tuple[float, Outcome]]) -> Summary:
    values = [value for value, _ in found]
    worst, outcome = min(found, key=lambda pair: pair[0])
    mean = math.exp(sum(map(math.log, values)) / len(values))
    as_fast = sum(value >= AS_FAST for value in values) / len(values)
    return Summary(*key, len(values), mean, worst, outcome.shape, outcome.peer, as_fast)
