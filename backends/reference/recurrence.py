"""Recurrences in NumPy: a call's arrays as the core op has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from compiler.evaluate import Mode
from compiler.ops.core_recurrence import Steps
from compiler.recurrence import RecurrenceSpec

Product = Callable[[np.ndarray, np.ndarray, np.dtype, Mode], np.ndarray]


def run_recurrence(
    spec: RecurrenceSpec,
    reads: Sequence[np.ndarray],
    writes: Sequence[np.ndarray],
    mode: Mode,
    params: Sequence[int],
    product: Product,
) -> None:
    """Fill `writes`; `product` multiplies as `mode` says."""
    rest: Iterator[np.ndarray] = iter(reads)
    x = next(rest)
    lengths = next(rest) if spec.lengths is not None else None
    matrices = [next(rest) for _ in spec.phases]
    first = [next(rest) if given else None for given in spec.initial]
    steps = Steps(spec.phases, spec.states, x, lengths, matrices, first, list(rest))  # type: ignore[arg-type]
    results = steps.run([flag == 1 for flag in params], lambda a, b: product(a, b, spec.dtype.numpy, mode), mode)
    for target, result in zip(writes, results, strict=True):
        target[...] = result
