"""The spec of running reductions (see compiler/kernels.py)."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.dtypes import DType
from compiler.expr import Expr


@dataclass(frozen=True)
class RunningSpec:
    """y[o, i, r] = result(state), the state being combine(the state before, x[o, i, r]) for ascending i, `start` before
    the first; with `exclusive` y is the result of the state before x[o, i, r].

    Read x (O, I, R), write y (O, I, R). combine: arg 0 is the state, arg 1 the element; result: arg 0 is the state.
    Classes are along R; `lone` says that R is 1.
    """

    combine: Expr
    result: Expr
    start: float
    exclusive: bool
    lone: bool
    element: DType
    in_classes: tuple[str, ...]
    out_classes: tuple[str, ...]
