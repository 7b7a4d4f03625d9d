"""The tables of `python -m bench gemm`: a line a product while they run, and the summary."""

from __future__ import annotations

from collections.abc import Sequence

from bench.outcome import AS_FAST, OURS, Outcome, Summary
from bench.product import KINDS
from bench.report import seconds, table

WIDTHS = {"MxNxK": 17, "in a call": 9, "time": 8, "spread": 6, "Gop/s": 8, "of peak": 7, "of reads": 10}


class Lines:
    """Prints a line a product of one group; reasons of those that did not compete come at the end, each once."""

    def __init__(self, dtype: str, form: str, threads: int, names: Sequence[str]) -> None:
        self.peers = [name for name in names if name != OURS]
        self.widths = [*WIDTHS.values(), *(max(7, len(name)) for name in self.peers), 30]
        self.products = 0
        self.remarks: dict[str, dict[str, list[str]]] = {}
        kind = KINDS[dtype]
        types = f"{kind.a} x {kind.b} -> {kind.c}" if kind.is_integer else dtype
        print(f"\n{types}, {form} B, {threads} threads; peers: their time / ours, above 1 ours is faster")
        self._line([*WIDTHS, *self.peers, "best peer"])
        self._line(["-" * width for width in self.widths])

    def add(self, outcome: Outcome) -> None:
        """One product's line."""
        self.products += 1
        ours = outcome.timings.get(OURS)
        cells = [str(outcome.shape), str(outcome.copies)]
        if ours is None:
            cells += ["-"] * 5
        else:
            read = f"{outcome.of_bandwidth(OURS):.0%} {outcome.level}" if outcome.bandwidth else ""
            rate = f"{outcome.rate(OURS) / 1e9:.1f}"
            cells += [seconds(ours.median), f"{ours.spread:.0%}", rate, f"{outcome.of_peak(OURS):.0%}", read]
        self._line([*cells, *(self._peer(outcome, name) for name in self.peers), self._best(outcome)])
        for kind in (outcome.refused, outcome.notes):
            for name, text in kind.items():
                if text:
                    self.remarks.setdefault(name, {}).setdefault(text, []).append(str(outcome.shape))

    def end(self) -> None:
        """What was particular about contestants."""
        for name, found in self.remarks.items():
            for text, shapes in found.items():
                which = f" ({', '.join(shapes[:6])})" if len(shapes) < self.products else ""
                print(f"  {name}: {text}{which}")

    def _peer(self, outcome: Outcome, name: str) -> str:
        compared = outcome.against(name)
        if compared is not None:
            return f"{compared.median:.2f}"
        # Without ours to compare with, the rate.
        return f"{outcome.rate(name) / 1e9:.0f}G" if name in outcome.timings else "-"

    def _best(self, outcome: Outcome) -> str:
        advantage = outcome.advantage
        return (
            f"{outcome.peer} {advantage.median:.2f} [{advantage.low:.2f}, {advantage.high:.2f}]" if advantage else "-"
        )

    def _line(self, cells: Sequence[str]) -> None:
        first, *others = zip(cells, self.widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]), flush=True)


def summary_table(summaries: Sequence[Summary]) -> str:
    """One line a group."""
    rows = [
        [
            f"{summary.dtype}, {summary.form} B, {summary.threads} threads", str(summary.shapes), f"{summary.mean:.3f}",
            f"{summary.worst:.2f} ({summary.worst_shape}, {summary.worst_peer})", f"{summary.as_fast:.0%}",
        ]
        for summary in summaries
    ]  # fmt: skip
    columns = ["", "shapes", "geometric mean", "worst", f">= {AS_FAST}"]
    return table("\nTime of the best peer / sansuan's (above 1: ours is faster)", columns, rows)
