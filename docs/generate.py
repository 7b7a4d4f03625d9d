"""`python -m docs.generate` writes docs/ops.md from the op registry and docs/onnx.md from a run of the ONNX suite."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import compiler.ops  # noqa: F401 - importing the families fills the registry
from compiler.op import REGISTRY, OnnxRow, Op
from docs import onnx_page

PATH = Path(__file__).with_name("ops.md")
FAMILIES = "compiler.ops."  # lowering has an op of its own, which no model has
HEADER = """# Ops

Made from the registry by `python -m docs.generate`; do not edit. *Core* ops lower to native kernels, *composed* ops are
rewritten into others until only core ops remain, *Host* ops run in NumPy, and the ledger says so.
"""


def text() -> str:
    """The whole page: every op by family, with their ONNX and ATen names."""
    ops = [entry for entry in REGISTRY.values() if entry.infer.__module__.startswith(FAMILIES)]
    sections = [HEADER, summary(ops)]
    for family, entries in groupby(sorted(ops, key=lambda entry: (family_of(entry), entry.name)), family_of):
        rows = "\n".join(map(row, entries))
        sections.append(f"## {family}\n\n| op | ONNX | ATen | runs as |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(sections)


def summary(entries: list[Op]) -> str:
    """How many there are of each kind."""
    host = sum(entry.is_host for entry in entries)
    core = sum(entry.lower is not None for entry in entries)
    onnx = sum(len(entry.onnx) for entry in entries)
    composed = len(entries) - host - core
    return f"{len(entries)} ops ({core} core, {composed} composed, {host} Host) stand for {onnx} ONNX operators.\n"


def family_of(entry: Op) -> str:
    """The family file an op is declared in."""
    return entry.infer.__module__.removeprefix(FAMILIES)


def row(entry: Op) -> str:
    """One line of the table."""
    onnx = ", ".join(map(onnx_name, entry.onnx))
    aten = ", ".join(f"`{name}`" for name in entry.torch)
    return f"| `{entry.name}` | {onnx} | {aten} | {runs_as(entry)} |"


def onnx_name(entry: OnnxRow) -> str:
    """An ONNX operator with its domain where it has one."""
    return f"`{entry.domain}.{entry.op_type}`" if entry.domain else f"`{entry.op_type}`"


def runs_as(entry: Op) -> str:
    """Core, composed, or Host with the reason."""
    if entry.is_host:
        return f"Host: {entry.host_reason}" if entry.host_reason else "Host"
    return "core" if entry.lower else "composed"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    onnx_page.write()
