"""The measure itself: what counts as an error, and that a family that fails is told and not lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.coverage.case import Case
from tests.coverage.measure import measure, relative_error


def test_errors_are_relative_to_the_largest_magnitude_of_the_worst_output() -> None:
    exact = [np.array([1.0, -4.0]), np.array([0.0, 100.0])]
    assert relative_error([np.array([1.5, -4.0]), np.array([1.0, 100.0])], exact) == 0.125


@pytest.mark.parametrize(
    ("found", "exact"),
    [([1, 2], [1, 3]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, np.inf], [1.0, -np.inf]), ([True], [False])],
)
def test_what_must_be_equal_and_is_not_is_infinitely_wrong(found: list[float], exact: list[float]) -> None:
    assert relative_error([np.array(found)], [np.array(exact)]) == np.inf


def test_a_family_that_fails_says_why() -> None:
    class Refused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x)

    result = measure("refused", "none", lambda: Case(Refused(), (torch.eye(2),)), "torch")
    assert not result.passed and "eigvalsh" in result.failure.replace("_linalg_eigh", "eigvalsh")


def test_a_wrong_answer_fails() -> None:
    class Unsteady(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e-3 if x.dtype == torch.float64 else x

    result = measure("unsteady", "none", lambda: Case(Unsteady(), (torch.ones(2),)), "torch")
    assert result.error > 1 and "exceeds" in result.failure
