"""The ledger: what ran each node of the imported model, how often, and why not on a matrix unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backends.native.executable import CallRow
from compiler.ir import ImportedNode
from compiler.kernels import (
    AttentionSpec,
    GemmSpec,
    HostCall,
    KernelCall,
    MapSpec,
    ReduceSpec,
    WindowSpec,
)

# Where several calls carry out one node, the row shows the first of these kinds.
_WEIGHTIEST = (GemmSpec, AttentionSpec, WindowSpec, ReduceSpec, MapSpec)


@dataclass(frozen=True)
class Notes:
    """What compiling found out about imported nodes, by name: `idle` says why a node needs no kernel, `remarks` what
    else is to be told of it, such as why it is not in the precision asked for."""

    idle: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerRow:
    """One node of the imported model. `unit` is "host" where the reference ran it, "none" where nothing had to;
    `runs` counts executions; `reason` says why no better unit serves it, or why nothing had to run."""

    node: str
    op: str
    kernel: str
    unit: str
    in_dtype: str
    acc_dtype: str
    out_dtype: str
    runs: int
    reason: str


def ledger(imported: Sequence[ImportedNode], notes: Notes, calls: Sequence[CallRow]) -> list[LedgerRow]:
    """One row a node of the imported model, in its order."""
    of_node: dict[str, list[CallRow]] = {}
    for call in calls:
        for name in call.where:
            of_node.setdefault(name, []).append(call)
    return [_row(node, of_node.get(node.name, []), notes) for node in imported]


def _row(node: ImportedNode, calls: Sequence[CallRow], notes: Notes) -> LedgerRow:
    if not calls:
        reason = notes.idle.get(node.name, "a view, or folded into its consumers")
        return LedgerRow(node.name, node.op, "", "none", "", "", "", 0, reason)
    # Of equals the call that is more the node's own: a product before the one whose epilogue converts its operand.
    main = min(calls, key=lambda row: (-min(row.runs, 1), _weight(row), row.where.index(node.name)))
    others = dict.fromkeys(row.kernel for row in calls if row.kernel != main.kernel)
    dtypes = _dtypes(main.call)
    kernels = " + ".join([main.kernel, *others])
    reason = "; ".join(filter(None, (notes.remarks.get(node.name), main.reason)))
    return LedgerRow(node.name, node.op, kernels, main.unit, *dtypes, main.runs, reason)


def _weight(row: CallRow) -> int:
    if isinstance(row.call, HostCall):
        return -1
    kinds = [number for number, kind in enumerate(_WEIGHTIEST) if isinstance(row.call.spec, kind)]
    return kinds[0] if kinds else len(_WEIGHTIEST)


def _dtypes(call: KernelCall | HostCall) -> tuple[str, str, str]:
    """Input, accumulator and output element types ('' where there is none)."""
    if isinstance(call, HostCall):
        read = next((str(view.dtype) for view in call.reads if view is not None), "")
        written = next((str(getattr(v.type, "dtype", v.type)) for v in call.node.outputs if v.name), "")
        return read, "", written
    spec = call.spec
    read = str(call.reads[0].dtype) if call.reads else ""
    written = str(call.writes[0].dtype) if call.writes else ""
    if isinstance(spec, GemmSpec | AttentionSpec | WindowSpec):
        return read, str(spec.acc), written
    if isinstance(spec, ReduceSpec):
        return read, str(spec.stages[0].expr.dtype) if spec.stages else "", written
    return read, str(spec.outputs[0].dtype) if isinstance(spec, MapSpec) else "", written


def table(rows: Sequence[LedgerRow]) -> str:
    """The rows as text, a line each under a heading."""
    headings = ("node", "op", "kernel", "unit", "in", "acc", "out", "runs", "reason")
    lines = [headings, *((r.node, r.op, r.kernel, r.unit, r.in_dtype, r.acc_dtype, r.out_dtype, str(r.runs), r.reason)
                         for r in rows)]  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
