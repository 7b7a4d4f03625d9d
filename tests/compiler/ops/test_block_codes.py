"""Rounding weights to codes: within half a step of plain rounding's error or better, for every shape of groups."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import dtypes
from compiler.errors import DtypeError, ModelError
from compiler.ops.block_codes import quantize_blocks
from compiler.ops.core_blocks import dequantized

RNG = np.random.default_rng(31)


def restored(weights: np.ndarray, bits: int, group: int, symmetric: bool) -> np.ndarray:
    codes, scales, zeros = quantize_blocks(weights, bits, group, symmetric)
    groups = -(-weights.shape[0] // min(group, weights.shape[0])), weights.shape[1]
    assert codes.shape == weights.shape and scales.shape == groups and scales.dtype == np.float32
    assert (zeros is None) == symmetric and (zeros is None or (zeros.shape, zeros.dtype) == (groups, codes.dtype))
    assert dtypes.from_numpy(codes.dtype).bits == bits
    return dequantized(codes, scales, zeros, min(group, weights.shape[0]), dtypes.float32)


def plain(weights: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Every group's greatest magnitude in whole steps."""
    result = np.empty_like(weights)
    most = (1 << bits - 1) - 1
    for first in range(0, len(weights), group):
        rows = weights[first : first + group]
        scale = np.abs(rows).max(0) / most
        scale[scale == 0] = 1
        result[first : first + group] = np.clip(np.rint(rows / scale), -most, most) * scale
    return result


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 100, 1000])
def test_error(bits: int, symmetric: bool, group: int) -> None:
    """Less than that of plain rounding, also where K is no multiple of the group and N not of what is done at once."""
    weights = RNG.standard_normal((100, 600)).astype(np.float32) * RNG.uniform(0.01, 10, 600).astype(np.float32)
    error = np.square(restored(weights, bits, group, symmetric) - weights).sum(0)
    naive = np.square(plain(weights, bits, min(group, 100)) - weights).sum(0)
    assert np.mean(error / naive) < 0.97 and np.median(error / naive) < 1


def test_one_sided_groups_profit_from_zero_points() -> None:
    weights = RNG.uniform(0, 1, (64, 8)).astype(np.float32)
    errors = [np.square(restored(weights, 4, 32, symmetric) - weights).mean() for symmetric in (True, False)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_codes_can_say_is_said_exactly(symmetric: bool) -> None:
    codes = RNG.integers(-8, 8, (32, 5)).astype(np.float32)
    codes[0], codes[1] = -8, 7
    for weights in (codes * 0.5, np.zeros((32, 5), np.float32), np.full((7, 2), 3, np.float32)):
        np.testing.assert_array_equal(restored(weights, 4, 32, symmetric), weights)


def test_what_has_no_codes_is_refused() -> None:
    with pytest.raises(DtypeError, match="3 bits"):
        quantize_blocks(np.zeros((4, 4), np.float32), 3, 2)
    with pytest.raises(ModelError, match="infinite or NaN"):
        quantize_blocks(np.full((4, 4), np.inf, np.float32), 4, 2)
    with pytest.raises(ModelError, match="expected a matrix"):
        quantize_blocks(np.zeros(4, np.float32), 4, 2)
