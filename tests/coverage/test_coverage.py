"""Model families from both front ends: right and without Host steps. All of them behind the coverage marker."""

from __future__ import annotations

import pytest

from tests.coverage.families import builders
from tests.coverage.measure import FRONT_ENDS, measure

QUICK = (
    "ModernBERT", "Gemma 3", "Whisper", "ConvNeXt", "mLSTM (plain)", "diffusion UNet (plain)", "graph network (plain)"
)  # fmt: skip


def check(family: str, front_end: str) -> None:
    kind, build = builders()[family]
    result = measure(family, kind, build, front_end)
    assert result.passed, result


@pytest.mark.slow
@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("family", QUICK)
def test_quick(family: str, front_end: str) -> None:
    check(family, front_end)


@pytest.mark.coverage
@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("family", builders())
def test_family(family: str, front_end: str) -> None:
    check(family, front_end)
