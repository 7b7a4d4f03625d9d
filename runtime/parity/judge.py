"""Whether a result is within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler import dtypes
from runtime.parity.metrics import Errors, measure
from runtime.parity.report import Judged
from runtime.parity.tolerance import Limit


def judge(result: Any, expected: Any, limit: Limit, alternative: Callable[[], Any] | None) -> Judged:
    """A result against what was expected. alternative: where that was FP64, what NumPy gives in the model's
    own types, which is right as well: where these overflow or round to a tie, FP64 does not."""
    result = np.asarray(result)
    if result.shape != np.shape(expected):
        return Judged(_of_another_shape(result), limit, False)
    errors = measure(result, expected)
    if alternative is None or limit.allows(errors):
        return Judged(errors, limit, limit.allows(errors))
    other = alternative()
    return Judged(errors, limit, np.shape(other) == result.shape and limit.allows(measure(result, other)))


def _of_another_shape(result: np.ndarray) -> Errors:
    """Nothing to subtract: every element counts as different."""
    name = dtypes.from_numpy(result.dtype).name
    return Errors(result.size, name, np.inf, 0, np.inf, 1.0, 0.0, 0, 0, result.size, result.size)
