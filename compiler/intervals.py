"""Bounds of numbers: the least and the greatest value something can have, either may be infinite."""

from __future__ import annotations

import math
from collections.abc import Callable

Bounds = tuple[float, float]


def pairwise(choose: Callable[[float, float], float]) -> Callable[[Bounds, Bounds], Bounds]:
    """Bounds of min or max of two numbers."""
    return lambda a, b: (choose(a[0], b[0]), choose(a[1], b[1]))


def quotient(a: Bounds, b: Bounds) -> Bounds:
    """Bounds of a // b. Raises ZeroDivisionError where b can only be 0."""
    if b[0] != b[1]:
        return (0, a[1]) if a[0] >= 0 and b[0] >= 0 else (-math.inf, math.inf)
    if b[0] == 0:
        raise ZeroDivisionError("a size is divided by zero")
    ends = [x // b[0] if math.isfinite(x) else x * b[0] for x in a]
    return min(ends), max(ends)


def remainder(a: Bounds, b: Bounds) -> Bounds:
    """Bounds of a % b. Raises ZeroDivisionError where b can only be 0."""
    if b == (0, 0):
        raise ZeroDivisionError("a size is divided by zero")
    return 0 if b[0] >= 0 else b[0] + 1, 0 if b[1] <= 0 else b[1] - 1  # the sign is the divisor's
