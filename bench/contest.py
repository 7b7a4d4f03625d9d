"""One comparison from start to table: build every contestant, check its result, race those that are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import peers
from bench.compare import Ratio, Timing, race, ratio
from bench.report import Report, seconds, table

Call = Callable[[], Any]
OURS = "sansuan"
COLUMNS = ("", "given", "time", "spread", "GF/s", "of peak", "at best", "sansuan / this", "this / best peer", "error")


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


@dataclass(frozen=True)
class Entrant:
    """A contestant not built yet; `build` may raise Unsupported. given: what it is made from, for people. kind: only
    contestants of one kind are compared, row by row."""

    build: Callable[[], Call]
    given: str = ""
    kind: str = ""


def prepare(
    contest: Contest, entrants: Mapping[str, Entrant]
) -> tuple[dict[str, Call], dict[str, float], dict[str, str]]:
    """The contestants whose result is right, their errors, and for each of the others why it does not compete."""
    ready: dict[str, Call] = {}
    errors: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, entrant in entrants.items():
        try:
            call = entrant.build()
        except peers.Unsupported as reason:
            refused[name] = f"unsupported: {reason}"
            continue
        error, right = contest.check(call())
        if right:
            ready[name], errors[name] = call, error
        else:
            refused[name] = f"wrong: error {error:.1e}"
    return ready, errors, refused


def hold(contest: Contest, entrants: Mapping[str, Entrant], rounds: int, report: Report) -> None:
    """Race the contestants, in percent of the peak measured around the race; print a table, add to the report."""
    from bench.peak import peak

    ready, errors, refused = prepare(contest, entrants)
    rows = [[name, entrants[name].given, *["-"] * (len(COLUMNS) - 3), why] for name, why in refused.items()]
    common = {**contest.fields, "dtype": contest.dtype, "threads": contest.threads}
    for name, why in refused.items():
        report.result(**common, contestant=name, given=entrants[name].given, kind=entrants[name].kind, refused=why)
    before = peak(contest.dtype, contest.threads)
    timings = race(ready, rounds)
    most = max(before, peak(contest.dtype, contest.threads))  # a busy moment must not pass for the machine's limit
    for name, timing in timings.items():
        given, kind = entrants[name].given, entrants[name].kind
        alike = {other: found for other, found in timings.items() if entrants[other].kind == kind}
        peer, ours = fastest(alike), next((found for other, found in alike.items() if is_ours(other)), None)
        over_peer = ratio(timing, timings[peer]) if peer and is_ours(name) else None
        rate = contest.flops / timing.median
        at_best = contest.flops / timing.best / most
        speed = [f"{rate / 1e9:.1f}", f"{rate / most:.0%}", f"{at_best:.0%}"]
        compared = [str(ratio(ours, timing)) if ours else "-", str(over_peer or "-")]
        timed = [seconds(timing.median), f"{timing.spread:.0%}", *speed, *compared, f"{errors[name]:.1e}"]
        rows.append([name, given, *timed])
        report.result(
            **common, contestant=name, given=given, kind=kind, seconds=timing.median, best=timing.best,
            spread=timing.spread, flops_per_second=rate, peak=most, percent_of_peak=100 * rate / most,
            percent_at_best=100 * at_best, error=errors[name], best_peer=peer, over_best_peer=_quartiles(over_peer),
        )  # fmt: skip
    title = f"\n{contest.title}, {contest.dtype}, {contest.threads} threads, peak {most / 1e9:.1f} GF/s"
    print(table(title, COLUMNS, rows, left=2), flush=True)
    _overall(common, timings, errors, report)


def is_ours(name: str) -> bool:
    """Whether a contestant is Sansuan, in whatever form."""
    return name.split("-")[0] == OURS


def fastest(timings: Mapping[str, Timing]) -> str:
    """The contestant that is not ours with the smallest median; empty if there is none."""
    return _first({name: timing for name, timing in timings.items() if not is_ours(name)})


def _overall(
    common: Mapping[str, Any], timings: Mapping[str, Timing], errors: Mapping[str, float], report: Report
) -> None:
    """The fastest of ours beside the fastest peer, of whatever kinds: a line, and an entry of the report."""
    ours, peer = _first({name: timing for name, timing in timings.items() if is_ours(name)}), fastest(timings)
    if not ours or not peer:
        return
    compared = ratio(timings[ours], timings[peer])
    print(f"fastest: {ours} (error {errors[ours]:.1e}) / {peer} (error {errors[peer]:.1e}) = {compared}", flush=True)
    report.result(
        **common, summary=True, fastest=ours, error=errors[ours], best_peer=peer, peer_error=errors[peer],
        over_best_peer=_quartiles(compared),
    )  # fmt: skip


def _first(timings: Mapping[str, Timing]) -> str:
    return min(timings, key=lambda name: timings[name].median, default="")


def _quartiles(found: Ratio | None) -> list[float] | None:
    return [found.low, found.median, found.high] if found else None
