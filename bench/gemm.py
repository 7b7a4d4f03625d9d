"""`python -m bench gemm`: matrix products on every backend, in percent of this machine's own peak.

With `constant` B everybody may prepare B beforehand (a model's weight), and products that take less than a millisecond
come many in a program, so that no call from Python is measured; with `input` B everybody gets two plain arrays in a
call; `cold` are products with so many different weights, one after the other, that each comes from memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from bench.bandwidth import LEVELS, Bandwidths, level
from bench.compare import Timing, race
from bench.gemm_table import Lines, summary_table
from bench.outcome import Outcome, summarize
from bench.product import FORMS, KINDS, Kind, Product, check, cold_shapes, copies_for, make
from bench.product_contestants import CONTESTANTS, Entry, builders, installed
from bench.report import Report
from bench.shapes import SETS, Shape
from bench.shapes import parse as parse_shapes

SLOW_CALL, SLOW_RATIO = 0.2, 30.0  # seconds, and times the fastest's, beyond which a contestant is not waited for
FEWEST_ROUNDS = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    def option(name: str, parse: Callable[[str], Any], default: str | None, text: str) -> None:
        parser.add_argument(f"--{name}", type=_explained(parse), default=default, help=text)

    option("dtype", partial(_some_of, KINDS), "float64,float32,bfloat16,int8", f"some of {', '.join(KINDS)}")
    option("shapes", parse_shapes, None, f"MxNxK, all, and of {', '.join(SETS)} (default: quick; cold for cold B)")
    option("b", partial(_some_of, FORMS), ",".join(FORMS), "default: %(default)s")
    option("contestants", partial(_some_of, CONTESTANTS), ",".join(CONTESTANTS), "default: %(default)s")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds a product's race may take (default: 15)")
    parser.add_argument("--figure", metavar="FILE", help="draw a roofline there, .png or .svg")
    parser.set_defaults(rounds=7)


def _some_of(known: Collection[str], text: str) -> list[str]:
    words = text.split(",")
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"no {', '.join(unknown)}; expected some of {', '.join(known)}")
    return words


def _explained(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse`, its ValueError's text shown to who typed the argument."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def run(options: argparse.Namespace, report: Report) -> None:
    """Every product asked for, in turn; then what they come to."""
    names = installed(options.contestants)
    outcomes: list[Outcome] = []
    for threads in options.threads:
        bandwidths = Bandwidths(threads)
        for kind in map(KINDS.__getitem__, options.dtype):
            start = len(outcomes)
            for form in options.b:
                lines = Lines(kind.name, form, threads, names)
                for shape in shapes_for(options.shapes, kind, form):
                    outcome = measure(kind, shape, form, bandwidths, names, options.rounds, options.budget)
                    outcomes.append(outcome)
                    lines.add(outcome)
                    for record in outcome.records():
                        report.result(**record)
                lines.end()
            report.result(**roofs(outcomes[start:], kind, bandwidths))
    summaries = summarize(outcomes)
    for summary in summaries:
        report.result(**summary.record())
    print(summary_table(summaries), flush=True)
    if options.figure:
        from bench.roofline import draw

        draw(report.results(), options.figure)


def shapes_for(asked: Sequence[Shape] | None, kind: Kind, form: str) -> Sequence[Shape]:
    """The shapes to measure with that form of B."""
    if form == "cold":
        return cold_shapes(asked or SETS["cold"], kind)
    return asked or SETS["quick"]


def measure(
    kind: Kind, shape: Shape, form: str, bandwidths: Bandwidths, names: list[str], rounds: int, budget: float
) -> Outcome:
    """One product: make it, check every contestant's result, race those that are right."""
    from threadpoolctl import threadpool_limits

    from bench.peak import peak

    threads = bandwidths.threads
    before = peak(kind.peak, threads)
    copies = copies_for(shape, kind, form, before, bandwidths.best.get("memory") or bandwidths.measured("memory"))
    product = make(kind, shape, form, threads, copies)
    lives = level(product.weight_bytes, threads)
    reading = bandwidths.measured(lives) if shape.is_gemv else 0.0
    with threadpool_limits(threads, user_api="blas"):
        ready, errors, lasting, refused = prepare(product, names)
        # Every contestant runs about twice a round, and three times before the first.
        fitting = round((budget / max(sum(lasting.values()), 1e-9) - 3) / 2)
        timings = race({name: e.call for name, e in ready.items()}, min(rounds, max(FEWEST_ROUNDS, fitting)))
    return Outcome(
        shape, kind.name, form, threads, copies, product.intensity, product.weights[0].nbytes,
        max(before, peak(kind.peak, threads)),  # a busy moment must not pass for the machine's limit
        lives, max(reading, bandwidths.measured(lives)) if reading else 0.0,
        {name: Timing(tuple(sample / copies for sample in timing.samples)) for name, timing in timings.items()},
        errors, {name: entry.note for name, entry in ready.items()}, refused,
    )  # fmt: skip


def prepare(
    product: Product, names: list[str]
) -> tuple[dict[str, Entry], dict[str, float], dict[str, float], dict[str, str]]:
    """The contestants whose results are right, their errors, seconds a call, and why the others do not compete."""
    from bench.peers import Unsupported

    ready: dict[str, Entry] = {}
    errors: dict[str, float] = {}
    lasting: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, build in builders(product, names).items():
        try:
            entry = build()
        except Unsupported as reason:
            refused[name] = f"unsupported: {reason}"
            continue
        start = time.perf_counter()
        results = entry.call()
        lasting[name] = time.perf_counter() - start
        error, right = check(entry.read(results), product, entry.output)
        if not right:
            refused[name] = f"wrong: error {error:.1e}"
        else:
            ready[name], errors[name] = entry, error
    fastest = min((lasting[name] for name in ready), default=0.0)
    for name in [name for name in ready if lasting[name] > max(SLOW_CALL, SLOW_RATIO * fastest)]:
        del ready[name], errors[name]
        refused[name] = f"slow: more than {SLOW_RATIO:.0f} times the fastest's time"
    return ready, errors, {name: lasting[name] for name in ready}, refused


def roofs(outcomes: Sequence[Outcome], kind: Kind, bandwidths: Bandwidths) -> dict[str, Any]:
    """What bounds rates of one element type: the best peak seen, and the bandwidth of every level."""
    levels = {name: bandwidths.measured(name) for name in LEVELS}
    most = max((outcome.peak for outcome in outcomes), default=0.0)
    return {"roofs": kind.name, "threads": bandwidths.threads, "peak": most, "levels": levels}
