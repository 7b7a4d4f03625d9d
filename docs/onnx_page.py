"""docs/onnx.md: the ONNX backend suite on NativeBackend, operator by operator, from one run of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.conformance.hosts import Outcome, causes, outcomes

PATH = Path(__file__).with_name("onnx.md")
HEADER = """# ONNX operators

Made by `python -m docs.generate` from a run of the onnx package's backend suite on NativeBackend; do not edit.
A *Host step* is a node that NumPy ran, not a compiled kernel. An operator's tests are those whose model holds it.
"""


def write() -> None:
    """Run the suite and write the page."""
    PATH.write_text(text(list(outcomes())), encoding="utf-8")


def text(found: Sequence[Outcome]) -> str:
    """The whole page."""
    return "\n".join([HEADER, summary(found), operators(found), host_steps(found), failures(found)])


def summary(found: Sequence[Outcome]) -> str:
    """The counts in one sentence."""
    passed = [outcome for outcome in found if not outcome.error]
    native = sum(not outcome.hosts for outcome in passed)
    return f"{len(found)} tests: {len(passed)} pass, {native} of them without a Host step.\n"


def operators(found: Sequence[Outcome]) -> str:
    """A line an operator."""
    lines = ["## By operator", "", "| operator | tests | passed | without Host |", "|---|---|---|---|"]
    for name in sorted({operator for outcome in found for operator in outcome.operators}):
        own = [outcome for outcome in found if name in outcome.operators]
        passed = [outcome for outcome in own if not outcome.error]
        native = sum(all(host[0] != name for host in outcome.hosts) for outcome in passed)
        lines.append(f"| `{name}` | {len(own)} | {len(passed)} | {native} |")
    return "\n".join(lines) + "\n"


def host_steps(found: Sequence[Outcome]) -> str:
    """What still runs in NumPy and why, by the number of tests."""
    lines = ["## Host steps", "", "| operator | tests | why |", "|---|---|---|"]
    lines += [f"| `{operator}` | {len(names)} | {reason} |" for (operator, _, reason), names in causes(found)]
    return "\n".join(lines) + "\n"


def failures(found: Sequence[Outcome]) -> str:
    """The tests that do not pass, with what they fail."""
    lines = ["## Failed", "", "| test | with |", "|---|---|"]
    for outcome in found:
        if outcome.error:
            error = outcome.error.replace("|", "\\|")[:160]
            lines.append(f"| `{outcome.name}` | {error} |")
    return "\n".join(lines) + "\n"
