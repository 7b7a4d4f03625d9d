"""A contest of fake contestants: who is refused, who is compared with whom, and what the report holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import peers
from bench.compare import Timing
from bench.contest import Contest, Entrant, hold, is_ours, prepare
from bench.report import Report


def answering(result: float = 0.0) -> Callable[[], Callable[[], float]]:
    """A builder of calls that answer this."""
    return lambda: lambda: result


def unsupported() -> Any:
    raise peers.Unsupported("has no kernel")


TIMES = {
    "sansuan": (4.0, 4.0, 9.0),
    "torch-dynamic": (8.0, 8.0, 18.0),
    "sansuan-calibrated": (2.0, 2.0, 4.0),
    "openvino-qdq": (1.0, 1.0, 1.0),
}
CONTEST = Contest("toy", {"model": "toy", "precision": "int8"}, "int8", 1, 10**6, lambda found: (found, found < 0.1))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Entrant]], dict[str, dict[str, Any]]]:
    """hold(entrants): the report's lines by contestant, the summary under ""."""
    monkeypatch.setattr("bench.peak.peak", lambda *_: 1e9)
    monkeypatch.setattr("bench.contest.race", lambda ready, rounds: {name: Timing(TIMES[name]) for name in ready})

    def run(entrants: dict[str, Entrant]) -> dict[str, dict[str, Any]]:
        report = Report("models", None)
        hold(CONTEST, entrants, 2, report)
        return {row.get("contestant", ""): row for row in report.results()}

    return run


def test_who_cannot_and_who_is_wrong_does_not_compete() -> None:
    entrants = {"a": Entrant(answering()), "b": Entrant(unsupported), "c": Entrant(answering(0.5))}
    ready, errors, refused = prepare(CONTEST, entrants)
    assert list(ready) == list(errors) == ["a"]
    assert refused == {"b": "unsupported: has no kernel", "c": "wrong: error 5.0e-01"}


def test_only_equal_kinds_are_compared(lines: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(
        {
            "sansuan": Entrant(answering(0.01), "ONNX file", "dynamic"),
            "torch-dynamic": Entrant(answering(), "torch module", "dynamic"),
            "sansuan-calibrated": Entrant(answering(), "ONNX file", "calibrated"),
            "openvino-qdq": Entrant(answering(0.02), "ORT QDQ", "calibrated"),
            "openvino-nncf": Entrant(unsupported, "NNCF", "calibrated"),
        }
    )
    assert (found["sansuan"]["best_peer"], found["sansuan-calibrated"]["best_peer"]) == (
        "torch-dynamic",
        "openvino-qdq",
    )
    assert found["sansuan"]["over_best_peer"] == [0.5, 0.5, 0.5]
    assert found["sansuan-calibrated"]["over_best_peer"] == [2.0, 2.0, 3.0]
    assert found["torch-dynamic"]["over_best_peer"] is None
    assert {row["precision"] for row in found.values()} == {"int8"}
    assert (found["sansuan"]["error"], found["sansuan"]["given"]) == (0.01, "ONNX file")
    assert found["openvino-nncf"]["refused"] == "unsupported: has no kernel"
    summary = found[""]
    assert (summary["fastest"], summary["best_peer"]) == ("sansuan-calibrated", "openvino-qdq")
    assert (summary["error"], summary["peer_error"]) == (0.0, 0.02)
    assert summary["over_best_peer"] == [2.0, 2.0, 3.0]
    printed = capsys.readouterr().out
    assert (
        "ORT QDQ" in printed and "fastest: sansuan-calibrated (error 0.0e+00) / openvino-qdq (error 2.0e-02)" in printed
    )


def test_without_peers_there_is_nothing_to_sum_up(lines: Callable[..., Any]) -> None:
    found = lines({"sansuan": Entrant(answering())})
    assert list(found) == ["sansuan"] and found["sansuan"]["over_best_peer"] is None


def test_every_form_of_sansuan_is_ours() -> None:
    assert is_ours("sansuan") and is_ours("sansuan-ort-qdq") and not is_ours("onnxruntime-qdq")
