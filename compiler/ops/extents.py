"""Minimum and maximum of sizes, decided where the polynomials decide and left as an atom where they do not."""

from __future__ import annotations

from compiler import dims
from compiler.dims import Size, Undecided


def at_most(a: Size, b: Size) -> bool:
    """Whether the polynomials show that a <= b for all sizes."""
    try:
        return a <= b
    except Undecided:
        return False


def smaller(a: Size, b: Size) -> Size:
    """min(a, b), decided by the polynomials where they decide."""
    return a if at_most(a, b) else b if at_most(b, a) else dims.minimum(a, b)


def larger(a: Size, b: Size) -> Size:
    """max(a, b), decided by the polynomials where they decide."""
    return a if at_most(b, a) else b if at_most(a, b) else dims.maximum(a, b)
