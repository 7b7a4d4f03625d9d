"""Random graphs through the whole compiler: every pass gives a valid graph, and every way to run it the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from backends.native.executable import Executable
from backends.native.target import host
from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import ReferenceExecutable
from compiler.passes.lower import lower
from compiler.passes.specialize import specialize
from compiler.passes.verify import verify
from compiler.pipeline import PASSES, lower_graph
from tests.compiler.random_graphs import Case, cases

BUDGET = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@dataclass(frozen=True)
class Settings:
    """What an Executable wants to know."""

    threads: int = 1
    cache_dir: Path | None = None
    plans: int = 4
    tune: bool = False


def check_passes(case: Case) -> None:
    """verify after every pass; the graph after each computes what the imported one does."""
    graph = verify(case.graph)
    expected, scale = interpreted(case)
    for step in PASSES:
        graph = verify(step(graph))
    close(ReferenceExecutable(graph).run(case.arrays), expected, scale)
    close(EmulatedExecutable(lower(graph), "truth").run(case.arrays), expected, scale)


def check_specialized(case: Case) -> None:
    """The graph for exactly these sizes agrees with the symbolic one."""
    expected, scale = interpreted(case)
    special = verify(specialize(case.graph, [array.shape for array in case.arrays]))
    close(EmulatedExecutable(lower_graph(special), "truth").run(case.arrays), expected, scale)


def check_native(case: Case) -> None:
    """Native code gives the emulated bits, on one thread and on two."""
    lowered = lower_graph(case.graph)
    expected = EmulatedExecutable(lowered, "emulate").run(case.arrays)
    for threads in (1, 2):
        found = Executable(lowered, host(), Settings(threads)).run(case.arrays)
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            assert same_bits(got, want), (threads, got, want)


def interpreted(case: Case) -> tuple[list[np.ndarray], float]:
    """What the imported graph computes, and the largest finite number met on the way."""
    seen = [1.0]

    def observe(name: str, value: np.ndarray) -> None:
        if value.dtype.kind == "f" and value.size:
            seen.append(float(np.max(np.abs(value), initial=0, where=np.isfinite(value))))

    with np.errstate(all="ignore"):
        return ReferenceExecutable(case.graph, observe).run(case.arrays), max(seen)


def close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], scale: float) -> None:
    """Floats within rounding of numbers up to `scale`; everything else equal."""
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype.kind != "f":
            np.testing.assert_array_equal(got, want)
            continue
        tolerance = 1e3 * float(np.finfo(want.dtype).eps) * (1 + scale) ** 2
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bytes, any NaN equal to any NaN."""
    nan = np.isnan(a) & np.isnan(b) if a.dtype.kind == "f" else np.zeros(a.shape, bool)
    return a[~nan].tobytes() == b[~nan].tobytes()


@settings(BUDGET, max_examples=1200)
@given(cases())
def test_passes_keep_the_meaning(case: Case) -> None:
    check_passes(case)


@settings(BUDGET, max_examples=500)
@given(cases())
def test_specialized_graphs_agree(case: Case) -> None:
    check_specialized(case)


@settings(BUDGET, max_examples=300)
@given(cases(max_steps=8))
def test_native_gives_the_emulated_bits(case: Case) -> None:
    check_native(case)


@pytest.mark.fuzz
@settings(BUDGET, max_examples=20000)
@given(cases(max_steps=14))
def test_many_passes(case: Case) -> None:
    check_passes(case)
    check_specialized(case)


@pytest.mark.fuzz
@settings(BUDGET, max_examples=500)
@given(cases(max_steps=10))
def test_many_native(case: Case) -> None:
    check_native(case)
