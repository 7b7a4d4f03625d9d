"""One comparison from start to table: build every contestant, check its result, race those that are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import peers
from bench.compare import Timing, race, ratio
from bench.report import Report, seconds, table

Call = Callable[[], Any]
OURS = ("sansuan", "sansuan-torch")
COLUMNS = ("", "time", "spread", "GF/s", "of peak", "at best", "sansuan / this", "error")


@dataclass(frozen=True)
class Contest:
    """A piece of work. `check` turns a result into its relative error and whether that is small enough; `fields` go
    into the JSON lines beside the timings."""

    title: str
    fields: Mapping[str, Any]
    dtype: str
    threads: int
    flops: int
    check: Callable[[Any], tuple[float, bool]]


def prepare(
    contest: Contest, builders: Mapping[str, Callable[[], Call]]
) -> tuple[dict[str, Call], dict[str, float], dict[str, str]]:
    """The contestants whose result is right, their errors, and for each of the others why it does not compete."""
    ready: dict[str, Call] = {}
    errors: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, build in builders.items():
        try:
            call = build()
        except peers.Unsupported as reason:
            refused[name] = f"unsupported: {reason}"
            continue
        error, right = contest.check(call())
        if right:
            ready[name], errors[name] = call, error
        else:
            refused[name] = f"wrong: error {error:.1e}"
    return ready, errors, refused


def hold(contest: Contest, builders: Mapping[str, Callable[[], Call]], rounds: int, report: Report) -> None:
    """Race the contestants, in percent of the peak measured around the race; print a table, add to the report."""
    from bench.peak import peak

    ready, errors, refused = prepare(contest, builders)
    rows = [[name, *["-"] * (len(COLUMNS) - 2), why] for name, why in refused.items()]
    for name, why in refused.items():
        report.result(**contest.fields, dtype=contest.dtype, threads=contest.threads, contestant=name, refused=why)
    before = peak(contest.dtype, contest.threads)
    timings = race(ready, rounds)
    most = max(before, peak(contest.dtype, contest.threads))  # a busy moment must not pass for the machine's limit
    ours = timings.get("sansuan")
    peer = fastest(timings)
    for name, timing in timings.items():
        rate = contest.flops / timing.median
        compared = str(ratio(ours, timing)) if ours else "-"
        at_best = contest.flops / timing.best / most
        speed = [f"{rate / 1e9:.1f}", f"{rate / most:.0%}", f"{at_best:.0%}"]
        rows.append([name, seconds(timing.median), f"{timing.spread:.0%}", *speed, compared, f"{errors[name]:.1e}"])
        report.result(
            **contest.fields, dtype=contest.dtype, threads=contest.threads, contestant=name, seconds=timing.median,
            best=timing.best, spread=timing.spread, flops_per_second=rate, peak=most, percent_of_peak=100 * rate / most,
            percent_at_best=100 * at_best, error=errors[name], best_peer=peer,
        )  # fmt: skip
    title = f"\n{contest.title}, {contest.dtype}, {contest.threads} threads, peak {most / 1e9:.1f} GF/s"
    print(table(title, COLUMNS, rows), flush=True)


def fastest(timings: Mapping[str, Timing]) -> str:
    """The contestant that is not ours with the smallest median; empty if there is none."""
    others = {name: timing.median for name, timing in timings.items() if name not in OURS}
    return min(others, key=others.__getitem__, default="")
