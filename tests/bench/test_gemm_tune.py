"""The bench of tuning: what it compares, and what it says about it."""

from __future__ import annotations

import pytest

from backends.native import tuning
from backends.native.target import host
from bench import gemm_tune
from bench.gemm_kernels import Case


@pytest.mark.parametrize("b", ["constant", "cold", "row", "column"])
def test_both_choices_are_timed(b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_tune, "LEAST_WEIGHTS", 0.01)
    monkeypatch.setattr(tuning, "runs_for", lambda ns: 8)
    found = gemm_tune.compare(Case(16, 64, 32, b), 2, 3, host())
    assert len(found.untuned) == len(found.tuned) == 3 and min(found.untuned) > 0
    assert found.choice


def test_what_is_beyond_the_bound_is_counted() -> None:
    def result(untuned: float) -> gemm_tune.Compared:
        return gemm_tune.Compared(Case(8, 16, 4), 1, [untuned] * 3, [100.0] * 3, "the same")

    text = gemm_tune.summary([result(100), result(102.9), result(110)])
    assert "worst 1.100 (8x16x4" in text and "2 of 3 products within 3%" in text
    assert result(110).ratios == pytest.approx((1.1, 1.1, 1.1))


def test_the_command_prints_a_row_for_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "runs_for", lambda ns: 0)
    gemm_tune.main(["--shapes", "8x16x4,9x16x4", "--dtype", "float64", "--threads", "1,2", "--rounds", "1"])
    out = capsys.readouterr().out
    assert out.count("8x16x4 float64 constant plain") >= 4 and "of 4 products within 3%" in out
