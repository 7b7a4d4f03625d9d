"""Every op's samples on the native backend: the very bits the emulated program gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.reference.emulator import EmulatedExecutable
from compiler.op import Op, Sample
from compiler.pipeline import lower_graph
from tests.backends.native.harness import in_order
from tests.compiler.test_lowering import cases, graph_of


@dataclass(frozen=True)
class Settings:
    threads: int = 1
    cache_dir: Path | None = None
    plans: int = 4
    tune: bool = False


@pytest.mark.parametrize(("entry", "sample"), cases())
def test_native_gives_the_emulated_bits(entry: Op, sample: Sample) -> None:
    graph, arrays = graph_of(entry, sample)
    lowered = lower_graph(graph)
    expected = EmulatedExecutable(lowered, "emulate").run(arrays)
    found = Executable(lowered, in_order(), Settings()).run([np.ascontiguousarray(a).reshape(a.shape) for a in arrays])
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert same_bits(got, want), (got, want)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bytes, any NaN equal to any NaN."""
    nan = (
        np.zeros(a.shape, bool)
        if a.dtype.kind in "biuO"
        else np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64))
    )
    return a[~nan].tobytes() == b[~nan].tobytes()
