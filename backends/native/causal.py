"""Reads off an attention score how far beyond a query its keys can count, so that blocks of keys may be skipped."""

from __future__ import annotations

from compiler.expr import Expr

GROUP = 64  # query rows that share a limit: a number of its own, so that bits do not depend on how rows are split


def reach(score: Expr) -> int | None:
    """The least c found such that the score of every key j > query + c is -inf; None if there is no such bound.

    Understands select(condition, .., -inf) where the condition, or one side of an `and`, compares sums of index(0),
    index(1) and constants, as causal masks do.
    """
    if score.op != "select" or score.args[2].op != "const" or score.args[2].value != float("-inf"):
        return None
    found = [bound for bound in (_bound(score.args[0]), reach(score.args[1])) if bound is not None]
    return min(found, default=None)


def _bound(condition: Expr) -> int | None:
    if condition.op == "and":
        found = [bound for bound in map(_bound, condition.args) if bound is not None]
        return min(found, default=None)
    if condition.op not in ("le", "lt", "ge", "gt"):
        return None
    less, more = condition.args if condition.op in ("le", "lt") else reversed(condition.args)
    a, b = _affine(less), _affine(more)
    if a is None or b is None or (a[0] - b[0], a[1] - b[1]) != (-1, 1):
        return None
    return b[2] - a[2] - (condition.op in ("lt", "gt"))


def _affine(node: Expr) -> tuple[int, int, int] | None:
    # Factors of index(0) and index(1), and the constant.
    if node.op == "index":
        return (1, 0, 0) if node.value == 0 else (0, 1, 0)
    if node.op == "const" and node.dtype.is_integer:
        return 0, 0, int(node.value)
    if node.op in ("add", "sub"):
        a, b = map(_affine, node.args)
        if a is not None and b is not None:
            sign = 1 if node.op == "add" else -1
            return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]
    return None
