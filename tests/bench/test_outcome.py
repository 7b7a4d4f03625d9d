"""What the GEMM bench makes of times: rates, ratios, JSON fields, summaries, the figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.compare import Timing
from bench.outcome import Outcome, summarize
from bench.roofline import draw, main
from bench.shapes import Shape

ROOFS = {"roofs": "float32", "threads": 1, "peak": 1e11, "levels": {"L1": 4e11, "L2": 2e11, "L3": 1e11, "memory": 1e10}}


def outcome(shape: Shape, form: str = "constant", **seconds: tuple[float, ...]) -> Outcome:
    """An outcome of FP32 on one thread with these times."""
    return Outcome(
        shape, "float32", form, 1, 2, 10.0, 4 * shape.n * shape.k, 1e11, "L2", 2e11,
        {name: Timing(samples) for name, samples in seconds.items()}, {}, {"numpy": "in a loop"}, {"torch": "wrong"},
    )  # fmt: skip


def test_rates_are_of_one_product() -> None:
    found = outcome(Shape(100, 100, 100), sansuan=(4e-5, 4e-5, 8e-5), numpy=(1e-4,) * 3)
    assert found.rate("sansuan") == pytest.approx(5e10)
    assert found.of_peak("sansuan") == pytest.approx(0.5)
    assert found.of_bandwidth("sansuan") == pytest.approx(40000 / 4e-5 / 2e11)


def test_advantage_is_over_the_best_peer_paired_by_round() -> None:
    found = outcome(Shape(1, 1, 1), sansuan=(1.0, 2.0, 10.0), numpy=(2.0, 4.0, 20.0), openvino=(9.0, 9.0, 9.0))
    assert found.peer == "openvino" or found.peer == "numpy"
    assert found.peer == "numpy"
    assert found.advantage is not None
    assert (found.advantage.low, found.advantage.median, found.advantage.high) == (2.0, 2.0, 2.0)
    assert outcome(Shape(1, 1, 1), sansuan=(1.0,)).advantage is None
    assert outcome(Shape(1, 1, 1), numpy=(1.0,)).advantage is None


def test_summaries_are_of_each_group() -> None:
    outcomes = [
        outcome(Shape(1, 1, 1), sansuan=(1.0,), numpy=(2.0,)),
        outcome(Shape(2, 2, 2), sansuan=(1.0,), numpy=(0.5,)),
        outcome(Shape(3, 3, 3), sansuan=(1.0,), numpy=(0.97,)),
        outcome(Shape(4, 4, 4), sansuan=(1.0,), numpy=(1.0 / 0.97,)),
        outcome(Shape(5, 5, 5), numpy=(1.0,)),
        outcome(Shape(6, 6, 6), "input", sansuan=(1.0,), numpy=(3.0,)),
    ]
    constant, fresh = summarize(outcomes)
    assert (constant.form, constant.shapes, fresh.form, fresh.shapes) == ("constant", 4, "input", 1)
    assert constant.mean == pytest.approx(1.0)
    assert (constant.worst, constant.worst_shape, constant.worst_peer) == (0.5, Shape(2, 2, 2), "numpy")
    assert constant.as_fast == 0.75
    assert fresh.mean == pytest.approx(3.0)
    assert json.loads(json.dumps(constant.record()))["worst_shape"] == "2x2x2"


def test_a_line_a_contestant() -> None:
    records = outcome(Shape(10, 10, 10), sansuan=(1.0, 1.0), numpy=(2.0, 2.0)).records()
    assert [(record["contestant"], record.get("refused")) for record in records] == [
        ("torch", "wrong"), ("sansuan", None), ("numpy", None)
    ]  # fmt: skip
    assert records[2]["over_sansuan"] == [2.0, 2.0, 2.0]
    assert records[2]["note"] == "in a loop"
    assert all(record["best_peer"] == "numpy" for record in records[1:])
    json.dumps(records)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_figure_has_every_contestant(ending: str, tmp_path: Path) -> None:
    records = outcome(Shape(100, 100, 100), sansuan=(4e-5,), numpy=(1e-4,), unheard_of=(2e-4,)).records()
    target = tmp_path / "new" / f"figure.{ending}"
    draw([*records, ROOFS], str(target))
    text = target.read_bytes()
    assert text.startswith(b"\x89PNG" if ending == "png" else b"<?xml")


def test_a_figure_can_be_drawn_from_a_file(tmp_path: Path) -> None:
    lines = [{"bench": "environment"}, *outcome(Shape(9, 9, 9), "cold", sansuan=(1e-6,)).records(), ROOFS]
    source, target = tmp_path / "lines", tmp_path / "figure.png"
    source.write_text("\n".join(map(json.dumps, lines)))
    main([str(source), str(target)])
    assert target.exists()
