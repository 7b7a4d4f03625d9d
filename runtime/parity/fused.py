"""Faults that only a fused program has: found by exposing ever more of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime.parity.candidates import Native
from runtime.parity.report import FusedOnly, Judged
from runtime.parity.source import Source

Verdict = Callable[[Native, str, Any], Judged]  # on what a candidate gives for an exposed value


def fused_only(
    candidate: Native,
    source: Source,
    outputs: Mapping[str, Judged],
    total: Mapping[str, Mapping[str, Judged]],
    verdict: Verdict,
) -> list[FusedOnly]:
    """The outputs that are wrong in production and right when every node's results are exposed."""
    found = []
    for name, value in source.outputs:
        exposed = total.get(value, {}).get(candidate.name)
        if name in outputs and not outputs[name].agrees and exposed is not None and exposed.agrees:
            node = _place(candidate, source, value, verdict)
            together = next((where for where in candidate.calls() if node in where and len(where) > 1), ())
            found.append(FusedOnly(candidate.name, name, node, tuple(together)))
    return found


def _place(candidate: Native, source: Source, value: str, verdict: Verdict) -> str:
    """The first node, in order, whose results must be exposed too for the fault to go: it is between that node and
    what reads it. '' where the fault does not show with the exact sizes of these inputs."""
    nodes = [node.name for node in source.nodes if source.values.get(node.name)]

    def wrong(count: int) -> bool:
        exposed = [name for node in nodes[:count] for name in source.values[node]]
        return not verdict(candidate, value, candidate.partly([*exposed, value])[value]).agrees

    if not wrong(0):
        return ""
    return _first(nodes, wrong)


def _first(nodes: Sequence[str], wrong: Callable[[int], bool]) -> str:
    low, high = 0, len(nodes)  # wrong with `low` exposed, right with all
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wrong(middle) else (low, middle)
    return nodes[high - 1]
