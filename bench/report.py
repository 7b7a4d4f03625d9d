"""What a bench prints: the environment, tables for people, one JSON line a result for programs."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import environment


class Report:
    """Collects results; tables go to stdout, JSON lines to a file ("-": to stdout, behind the tables)."""

    def __init__(self, bench: str, path: str | None) -> None:
        self.bench = bench
        self.path = path
        found = environment.describe()
        self.lines = [json.dumps({"bench": "environment", **found})]
        print(environment.header(found), flush=True)

    def result(self, **fields: Any) -> None:
        """Add one result."""
        self.lines.append(json.dumps({"bench": self.bench, **fields}))

    def results(self) -> list[dict[str, Any]]:
        """The results so far, as a reader of the JSON lines gets them."""
        return [json.loads(line) for line in self.lines[1:]]

    def close(self) -> None:
        """Write the JSON lines: appended to the file, so that one file can hold many runs."""
        if self.path is None:
            return
        text = "\n".join(self.lines) + "\n"
        if self.path == "-":
            sys.stdout.write(text)
            return
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text columns: the first `left` of them left-aligned, the others right-aligned."""
    widths = [max(_width(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = [title] if title else []
    for row in (columns, ["-" * width for width in widths], *rows):
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (width - _width(cell))
            cells.append(cell + padding if i < left else padding + cell)
        lines.append("  ".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= 0.9995 * scale:  # what three digits round up to 1
            return f"{value / scale:.3g} {unit}" if value < 100 * scale else f"{value / scale:.0f} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _width(text: str) -> int:
    """Columns a text takes on a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
