"""What a comparison found: a row for each imported node, the first to diverge, and who is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from runtime.parity.metrics import Errors
from runtime.parity.tolerance import Limit

if TYPE_CHECKING:
    from runtime.parity.source import Source

SHOWN = 12  # rows of the text, the worst ones


@dataclass(frozen=True)
class Judged:
    """One candidate's errors in one result, and what they may be. `agrees`: whether they are within."""

    errors: Errors
    limit: Limit
    agrees: bool

    @property
    def excess(self) -> float:
        """Errors as a multiple of what they may be: what rows are ranked by."""
        if self.limit.norm:
            return self.errors.norm / self.limit.norm
        return 0.0 if self.agrees and not self.errors.different else 1.0 if self.agrees else np.inf

    @property
    def is_float(self) -> bool:
        """Whether the result is of floats: then L2 norms decide, else how many elements differ."""
        return dtypes.named(self.errors.dtype).is_float

    @property
    def allowed(self) -> float:
        """The bound relative to what was expected; of integers 0 but where the candidate narrows operands."""
        return self.limit.norm / self.errors.scale if self.errors.scale else self.limit.norm

    @property
    def verdict(self) -> str:
        """`within`; `as in own types`, where NumPy in the model's own types is as far from FP64; or `beyond`."""
        if not self.agrees:
            return "beyond"
        return "within" if self.limit.allows(self.errors) else "as in own types"


@dataclass(frozen=True)
class Row:
    """An imported node. own: by candidate, the node's own error, its operands being the reference's; total: that with
    what it inherits; both of the result that is worst. fp64: own error against FP64, where the reference is another.
    note: why there is no own error."""

    node: str
    op: str
    own: Mapping[str, Judged] = field(default_factory=dict)
    total: Mapping[str, Judged] = field(default_factory=dict)
    fp64: Mapping[str, Judged] = field(default_factory=dict)
    note: str = ""

    def diverging(self) -> list[str]:
        """The candidates whose own error is beyond its bound."""
        return [name for name, judged in self.own.items() if not judged.agrees]

    def inheriting(self) -> list[str]:
        """The candidates whose total error is beyond its bound."""
        return [name for name, judged in self.total.items() if not judged.agrees]


@dataclass(frozen=True)
class FusedOnly:
    """A fault of a program as it is compiled that its exposed form does not show. node: the last imported node that
    must stay fused for it to appear, '' where that could not be found; together: the nodes its kernel carries out."""

    candidate: str
    output: str
    node: str
    together: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """The outcome of runtime.compare. rows: in an order where operands come first. outputs: the model's outputs as
    each candidate computes them in production. fused_only: see FusedOnly. observed: the reference's values by name."""

    reference: str
    candidates: tuple[str, ...]
    rows: tuple[Row, ...]
    outputs: Mapping[str, Mapping[str, Judged]]
    fused_only: tuple[FusedOnly, ...]
    source: Source
    observed: Mapping[str, Any]

    @property
    def agrees(self) -> bool:
        """Whether no node, no output and no fused program is beyond its bounds."""
        return not (
            self.first_divergence
            or self.fused_only
            or self.first_inherited
            or any(not judged.agrees for found in self.outputs.values() for judged in found.values())
        )

    @property
    def first_divergence(self) -> Row | None:
        """The first node whose own error is beyond its bound."""
        return next((row for row in self.rows if row.diverging()), None)

    @property
    def first_inherited(self) -> Row | None:
        """The first node whose total error is beyond its bound: where no own error is, many small ones add up."""
        return next((row for row in self.rows if row.inheriting()), None)

    @property
    def blame(self) -> str:
        """At the first divergence, which of the compared is farthest from FP64; '' where nothing diverges."""
        row = self.first_divergence or self.first_inherited
        if row is not None:
            measured = row.fp64 or row.own or row.total
            return max(measured, key=lambda name: measured[name].excess)
        if self.fused_only:
            return self.fused_only[0].candidate
        wrong = [name for name, found in self.outputs.items() if not all(judged.agrees for judged in found.values())]
        return wrong[0] if wrong else ""

    def __str__(self) -> str:
        ranked = sorted(self.rows, key=lambda row: -max((j.excess for j in row.own.values()), default=-1.0))
        compared = f"{', '.join(self.candidates)} against {self.reference}, {len(self.rows)} nodes"
        lines = [f"{'agree' if self.agrees else 'DISAGREE'}: {compared}", *self._findings(), ""]
        return "\n".join([*lines, *_table(ranked[:SHOWN], self.candidates)])

    def _findings(self) -> list[str]:
        lines = []
        if row := self.first_divergence:
            names = ", ".join(row.diverging())
            lines.append(f"first divergence: {row.node} ({row.op}): {names}; farthest from FP64: {self.blame}")
            lines += [f"  {name}: {describe(row.own[name])}" for name in row.diverging()]
        elif row := self.first_inherited:
            names = ", ".join(row.inheriting())
            lines.append(
                f"every node is right by itself; errors add up beyond bounds at {row.node} ({row.op}): {names}"
            )
        for found in self.fused_only:
            place = f"while {found.node} stays fused with what reads it" if found.node else "place not found"
            together = f" (one kernel carries out {', '.join(found.together)})" if found.together else ""
            lines.append(f"only when fused: {found.candidate}, output {found.output}: {place}{together}")
        for name, outputs in self.outputs.items():
            for output, judged in outputs.items():
                if not judged.agrees:
                    lines.append(f"output {output} of {name}: {describe(judged)}")
        return lines

    def save_html(self, path: str | Path) -> None:
        """Write a single-file page: errors along the graph, and the rows as a table that can be sorted."""
        from runtime.parity.html import page

        Path(path).write_text(page(self), encoding="utf-8")

    def save_repro(self, path: str | Path) -> Path:
        """Write, into the folder `path`, a model of the one node that diverges first (where none does, of the one
        nearest to its bound), its operands as the reference computes them (inputs.npz, expected.npz in FP64) and a
        README. An ONNX model gives model.onnx; a torch model gives model.onnx where torch.onnx exports the call, else
        model.pt2. Answers with the model's path. Raises SansuanError where the node cannot be taken out."""
        from runtime.parity.repro import save

        return save(self, Path(path))


def describe(judged: Judged) -> str:
    """A candidate's errors in words."""
    e, limit = judged.errors, judged.limit
    if not judged.is_float:
        return f"{e.different} of {e.elements} elements differ, by at most {e.max_abs:g} (allowed: {limit.different:g})"
    misplaced = f"; {e.misplaced} NaN or infinite where the other is not" if e.misplaced else ""
    return (
        f"relative L2 {e.relative:.3g} (allowed: {judged.allowed:.3g}), max abs {e.max_abs:.3g}, {e.ulp} ulp, "
        f"cosine {e.cosine:.9g}, SQNR {e.sqnr:.1f} dB{misplaced}"
    )


def _table(rows: Sequence[Row], candidates: Sequence[str]) -> list[str]:
    headings = (
        "node",
        "op",
        "candidate",
        "own L2",
        "allowed",
        "total L2",
        "max abs",
        "ulp",
        "SQNR dB",
        "nan/inf",
        "verdict",
    )
    lines = [headings]
    for row in rows:
        for name in candidates:
            own, total = row.own.get(name), row.total.get(name)
            if own is None and total is None:
                continue
            main = own or total
            assert main is not None
            e = main.errors
            allowed = f"{main.allowed:.2e}" if main.is_float else f"{main.limit.different:g} differ"
            lines.append((
                row.node, row.op, name, f"{own.errors.relative:.2e}" if own else row.note or "-",
                allowed if own else "-", f"{total.errors.relative:.2e}" if total else "-",
                f"{e.max_abs:.2e}", str(e.ulp), f"{e.sqnr:.1f}", f"{e.nan}/{e.inf}",
                "diverges" if main.verdict == "beyond" else main.verdict,
            ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
