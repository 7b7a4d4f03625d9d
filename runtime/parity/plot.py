"""Errors along the graph as an SVG: a column for each node, relative L2 on a log scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from html import escape

from runtime.parity.report import Report, describe

COLOURS = 7
_LEFT, _TOP, _HEIGHT, _LABELS = 62, 22, 300, 120
_LABELLED = 70  # so many nodes get their names below the axis
_LONGEST = 20  # characters of a name there
_WIDTH = 1400
_BELOW = 2

Place = Callable[[float], float]


def svg(report: Report) -> str:
    """The plot: dots for own errors, lines for total ones, ticks for bounds, a dashed line at the first divergence."""
    low, high = _span(report)
    count = max(len(report.rows), 1)
    step = max((_WIDTH - _LEFT - 30) / count, 6.0)
    labelled = count <= _LABELLED
    width, height = _LEFT + step * count + 30, _TOP + _HEIGHT + (_LABELS if labelled else 34)

    def x(place: float) -> float:
        return _LEFT + step * (place + 0.5)

    def y(value: float) -> float:
        if value <= 0:
            return _TOP + _HEIGHT
        part = (min(max(math.log10(value), low), high) - low) / (high - low)
        return _TOP + (_HEIGHT - 18) * (1 - part)

    parts = [f'<svg width="{width:.0f}" height="{height:.0f}" role="img" aria-label="Errors along the graph">']
    for power in range(math.ceil(low), math.floor(high) + 1, 2 if high - low > 8 else 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - 30:.0f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - 30:.0f}" y1="{y(0)}" y2="{y(0)}"/>')
    parts.append(f'<text x="{_LEFT - 8}" y="{y(0) + 4}" text-anchor="end">0</text>')
    parts += _names(report, x, labelled, step)
    first = report.first_divergence
    if first is not None:
        at = x(report.rows.index(first))
        anchor = "end" if at > width * 0.7 else "start"
        parts.append(f'<line class="first" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 6}" y2="{_TOP + _HEIGHT}"/>')
        parts.append(
            f'<text class="firstname" x="{at + (-6 if anchor == "end" else 6):.1f}" y="{_TOP - 8}" '
            f'text-anchor="{anchor}">first divergence: {escape(first.node)}</text>'
        )
    for number, name in enumerate(report.candidates):
        parts.append(f'<g class="s{number} c{number % COLOURS}">')
        beside = (number - (len(report.candidates) - 1) / 2) * min(step / (len(report.candidates) + 1), 7)
        parts += _series(report, name, x, y, min(step * 0.35, 9), beside, 10.0**low)
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _series(report: Report, name: str, x: Place, y: Place, half: float, beside: float, least: float) -> Iterator[str]:
    """One candidate's marks; dots stand a little `beside` the node's place, so that equal ones show."""
    for points in _runs(report, name, x, y, least):
        yield f'<polyline class="line" points="{" ".join(points)}"/>'
    for place, row in enumerate(report.rows):
        own = row.own.get(name)
        if own is None:
            continue
        at, bound = x(place), own.allowed
        if 0 < bound < math.inf:
            ends = f'x1="{at - half:.1f}" x2="{at + half:.1f}" y1="{y(bound):.1f}" y2="{y(bound):.1f}"'
            yield f'<line class="tick" {ends}/>'
        kind, radius = ("dot", 3.5 if half > 3 else 2.5) if own.agrees else ("dot wrong", 6)
        told = f"{row.node} ({row.op})\n{name}: {describe(own)}"
        yield (
            f'<circle class="{kind}" cx="{at + beside:.1f}" cy="{y(own.errors.relative):.1f}" r="{radius}">'
            f"<title>{escape(told)}</title></circle>"
        )


def _runs(report: Report, name: str, x: Place, y: Place, least: float) -> list[list[str]]:
    """Where total errors lie, in runs of nodes that have some: a line does not dive to integers and masks between."""
    runs: list[list[str]] = [[]]
    for place, row in enumerate(report.rows):
        total = row.total.get(name)
        if total is not None and least < total.errors.relative < math.inf:
            runs[-1].append(f"{x(place):.1f},{y(total.errors.relative):.1f}")
        elif runs[-1]:
            runs.append([])
    return [points for points in runs if points]


def _names(report: Report, x: Place, labelled: bool, step: float) -> Iterator[str]:
    bottom = _TOP + _HEIGHT
    every = 1 if labelled else max(round(60 / step), 1)
    for place, row in enumerate(report.rows):
        if place % every:
            continue
        if not labelled:
            yield f'<text x="{x(place):.1f}" y="{bottom + 18}" text-anchor="middle">{place}</text>'
            continue
        text = row.node if len(row.node) <= _LONGEST else f"…{row.node[1 - _LONGEST :]}"
        at = f"{x(place) + 4:.1f},{bottom + 14}"
        yield (
            f'<text text-anchor="end" transform="translate({at}) rotate(-50)">{escape(text)}'
            f"<title>{escape(row.node)} ({escape(row.op)})</title></text>"
        )


def _span(report: Report) -> tuple[float, float]:
    """Powers of ten for errors and bounds. What is below every candidate's usual errors by more than _BELOW of them
    stands at the lower edge: beside a mask of huge numbers, errors are next to nothing."""
    values: list[float] = []
    usual: list[float] = []
    for name in report.candidates:
        found = [table[name] for row in report.rows for table in (row.own, row.total) if name in table]
        errors = [judged.errors.relative for judged in found if 0 < judged.errors.relative < math.inf]
        values += [*errors, *(judged.allowed for judged in found if 0 < judged.allowed < math.inf)]
        usual += [statistics.median(errors)] if errors else []
    logs = [math.log10(value) for value in values] or [-8.0, 0.0]
    low = max(min(logs), math.log10(min(usual)) - _BELOW if usual else -18.0)
    return math.floor(low), max(math.ceil(min(max(logs), 4)), math.floor(low) + 2)
