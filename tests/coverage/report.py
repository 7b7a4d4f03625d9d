"""docs/models.md: what was measured, a table a kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.coverage.measure import BOUND, Result

PATH = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Model families

Made by `make coverage` (`tests/coverage/`); do not edit. Each family is a small configuration with random weights,
built by Hugging Face transformers {version} or, where its name says "plain", by torch code of our own. It is compiled
by `runtime.compile` from torch and from the ONNX file torch exports, run in FP32, and compared with torch eager in
FP64.

*Error* is the largest difference over an output's elements divided by the exact output's largest magnitude, for the
worst output (integer outputs must be equal); {bound:.0e} is the most that passes. *torch* is the same figure for
torch's own FP32. Families with *dynamic* sizes are compiled with those left open and run with a second set of sizes
too; *respecialized* says that the second run needed a program of its own. *Host* counts imported nodes that ran in
NumPy, *cuts* the places where a run stops for that; the goal is none. *Kernels* are distinct ones. *Seconds* are
`runtime.compile` alone (from torch with torch.export) on a shared two-core machine, kernels from the cache on disk
where they are known.

{summary}
"""
REFUSED = re.compile(r"torch(\.onnx)?\.export refused")
COLUMNS = ("family", "from", "dynamic", "error", "torch", "Host", "cuts", "kernels", "seconds", "failure")
_ROW = re.compile(r"^\| (?!family|---)(.+) \|$")


def write(results: Sequence[Result], order: Mapping[str, str]) -> None:
    """Write the page: these results, and of families not among them the rows that stand there. `order` is family ->
    kind, for all."""
    from transformers import __version__

    held = {**_rows_of_page(), **{(r.family, r.front_end): _cells(r) for r in results}}
    lines: list[str] = []
    for kind in dict.fromkeys(order.values()):
        rows = [cells for family, its in order.items() if its == kind for cells in _of(held, family)]
        if rows:
            lines += [f"\n## {kind[0].upper()}{kind[1:]}\n", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
            lines += map(_line, rows)
    rows = [cells for family in order for cells in _of(held, family)]
    head = HEAD.format(version=__version__, bound=BOUND, summary=_summary(rows))
    PATH.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def _summary(rows: Sequence[Sequence[str]]) -> str:
    sentences = []
    for front_end in ("torch", "ONNX"):
        its = [row for row in rows if row[1] == front_end]
        right = [row for row in its if not row[9]]
        native = [row for row in right if row[5] == row[6] == "0"]
        refused = [row for row in its if REFUSED.search(row[9])]
        more = f" Torch's exporter refuses {len(refused)}." if refused else ""
        sentences.append(
            f"From {front_end}: {len(its)} families, {len(right)} right, {len(native)} of them without Host.{more}"
        )
    return "\n".join(sentences)


def _of(held: Mapping[tuple[str, str], Sequence[str]], family: str) -> list[Sequence[str]]:
    return [held[key] for key in ((family, "torch"), (family, "ONNX")) if key in held]


def _cells(result: Result) -> list[str]:
    def count(n: int) -> str:
        return "" if n < 0 else str(n)

    errors = ["" if x < 0 else f"{x:.0e}" for x in (result.error, result.torch_error)]
    counts = [count(n) for n in (result.host_steps, result.cuts, result.kernels)]
    seconds = "" if result.seconds < 0 else f"{result.seconds:.1f}"
    failure = result.failure.replace("|", "/").replace("\n", " ")[:300]
    return [result.family, result.front_end, result.dynamic, *errors, *counts, seconds, failure]


def _rows_of_page() -> dict[tuple[str, str], list[str]]:
    if not PATH.exists():
        return {}
    found = {}
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if match := _ROW.match(line):
            cells = [cell.strip() for cell in match[1].split(" | ")]
            cells += [""] * (len(COLUMNS) - len(cells))
            found[cells[0], cells[1]] = cells
    return found


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
