"""Composite functions as primitive expressions: no table gathers, no library calls, fma only where written.

`expand` is the one entry point. float32 and float64 results are within 2 ulp, denormal results included, with the
special values of C's Annex F; float16 and bfloat16 compute in float32 and round once.
"""

from __future__ import annotations

from functools import lru_cache

from compiler import dtypes
from compiler.expr import COMPOSITES, Expr, apply, cast, transform
from compiler.mathlib.table import EXPANSIONS

__all__ = ["expand"]


@lru_cache(maxsize=4096)
def expand(expr: Expr) -> Expr:
    """`expr` with every composite replaced by primitives."""
    return transform(expr, _expand_node)


def _expand_node(node: Expr) -> Expr | None:
    if node.op not in COMPOSITES:
        return None
    if node.dtype.bits < 32:
        wide = apply(node.op, *(cast(a, dtypes.float32) for a in node.args))
        return cast(expand(wide), node.dtype)
    return EXPANSIONS[node.op](*node.args)
