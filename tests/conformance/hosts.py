"""What the ONNX backend suite runs natively: `python -m tests.conformance.hosts [substring]` runs it once on
NativeBackend and prints how many tests pass, how many without a Host step, and what the Host steps are."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import onnx
from onnx.backend.test.loader import load_model_tests

from runtime.onnx_backend import NativeBackend, PreparedModel
from tests.conformance.suite import suite


@dataclass(frozen=True)
class Outcome:
    """How one test went. operators: the ONNX operators of its model; error: why it failed ('' if it passed); hosts:
    (ONNX operator, op run by the reference, reason) of each Host step."""

    name: str
    operators: frozenset[str]
    error: str
    hosts: frozenset[tuple[str, str, str]]


class _Watched(NativeBackend):
    """NativeBackend that keeps the programs it has prepared."""

    prepared: list[PreparedModel] = []  # noqa: RUF012 - emptied before each test

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """As NativeBackend."""
        prepared = super().prepare(model, device, **kwargs)
        cls.prepared.append(prepared)
        return prepared


def outcomes(containing: str = "") -> Iterator[Outcome]:
    """Runs every test whose name contains the given text, in the suite's order."""
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.setdefault("ONNX_HOME", home)  # where the suite writes the light models' data
        operators = _operators()
        for name, case in suite(_Watched).items():
            if containing in name:
                yield _outcome(name, case, operators.get(name, frozenset()))


def _outcome(name: str, case: Any, operators: frozenset[str]) -> Outcome:
    _Watched.prepared.clear()
    error = ""
    try:
        case.run()
    except (Exception, SkipTest) as raised:  # a test may fail with anything; the page says with what
        error = f"{type(raised).__name__}: {str(raised).strip().splitlines()[0] if str(raised).strip() else ''}"
    rows = [row for prepared in _Watched.prepared for row in prepared.program.ledger()]
    hosts = frozenset((row.op, row.kernel.split(" + ")[0], row.reason) for row in rows if row.unit == "host")
    return Outcome(name, operators or frozenset(row.op for row in rows), error, hosts)


def _operators() -> dict[str, frozenset[str]]:
    """The operators of each test whose model the suite makes in memory."""
    found = {}
    for case in load_model_tests(kind="node"):
        if case.model is not None:
            found[case.name] = frozenset(node.op_type for node in case.model.graph.node)
    return found


def causes(found: Iterable[Outcome]) -> list[tuple[tuple[str, str, str], list[str]]]:
    """(operator, op, reason) of Host steps with the names of the passing tests that take one, most tests first."""
    tests: dict[tuple[str, str, str], list[str]] = {}
    for outcome in found:
        for host in () if outcome.error else outcome.hosts:
            tests.setdefault(host, []).append(outcome.name)
    return sorted(tests.items(), key=lambda item: (-len(item[1]), item[0]))


def main() -> None:
    """Print the counts, the failures and the causes."""
    found = list(outcomes(sys.argv[1] if len(sys.argv) > 1 else ""))
    passed = [outcome for outcome in found if not outcome.error]
    native = [outcome for outcome in passed if not outcome.hosts]
    print(f"{len(found)} tests: {len(passed)} pass, {len(native)} of them without a Host step")
    for outcome in found:
        if outcome.error:
            print(f"  failed {outcome.name}: {outcome.error}")
    for (operator, op, reason), names in causes(found):
        alone = sum(len(outcome.hosts) == 1 for outcome in found if outcome.name in names)
        print(f"{len(names):4} ({alone} alone) {operator} as {op}: {reason}; {', '.join(names[:4])}")
    print(Counter(len(outcome.hosts) for outcome in passed))


if __name__ == "__main__":
    main()
