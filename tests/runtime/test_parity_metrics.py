"""The figures of a row."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime.parity.metrics import measure


def test_figures_of_floats() -> None:
    expected = np.array([1.0, -2.0, 4.0, 0.0])
    found = np.array([1.0, -2.0, 4.0, 0.0], np.float32)
    found[0] = np.nextafter(np.nextafter(np.float32(1), np.float32(2)), np.float32(2))
    errors = measure(found, expected)
    assert errors.max_abs == float(found[0]) - 1
    assert (errors.ulp, errors.different, errors.nan, errors.inf, errors.misplaced) == (2, 1, 0, 0, 0)
    assert errors.relative == pytest.approx(errors.max_abs / np.sqrt(21))
    assert errors.sqnr == pytest.approx(-20 * np.log10(errors.relative))
    assert errors.cosine == pytest.approx(1)
    assert measure(np.array([1.0, -1.0], np.float32), np.array([1.0, 1.0])).cosine == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_ulps_count_numbers_of_the_results_own_type(dtype: Any) -> None:
    eps = ml_dtypes.finfo(dtype).eps
    tiny = ml_dtypes.finfo(dtype).smallest_subnormal
    assert measure(np.array([1 + 3 * eps], dtype), np.array([1.0])).ulp == 3
    assert measure(np.array([-tiny], dtype), np.array([float(tiny)])).ulp == 2
    assert measure(np.array([-0.0], dtype), np.array([0.0])).ulp == 0


def test_figures_of_what_is_not_finite() -> None:
    found = np.array([np.nan, np.inf, -np.inf, 1, np.inf], np.float32)
    errors = measure(found, np.array([np.nan, np.inf, np.inf, np.nan, 1e300]))  # 1e300 is infinite in float32
    assert (errors.nan, errors.inf, errors.misplaced, errors.norm) == (1, 3, 2, 0)
    with pytest.raises(ValueError, match="expected"):
        measure(found, found[:2])


def test_figures_of_integers_and_of_huge_numbers() -> None:
    errors = measure(np.array([3, 5, 9], np.int8), np.array([3, 7, 9], np.int8))
    assert (errors.different, errors.max_abs, errors.ulp) == (1, 2, 2)
    huge = measure(np.array([1e308]), np.array([-1e308]))
    assert huge.cosine == -1 and huge.scale == 1e308
