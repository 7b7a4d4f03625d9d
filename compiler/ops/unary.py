"""Elementwise ops of one operand: arithmetic, rounding, exponentials, trigonometry, tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from compiler.dims import Size
from compiler.expr import Expr, apply, const, select
from compiler.mathlib.reference import erf, sigmoid
from compiler.ops.elementwise import BOOL, FLOAT, INTEGER, NUMBER, Row, declare_all

POSITIVE, UNIT = (1e-3, 9.0), (-0.999, 0.999)


def fn(name: str) -> Callable[..., Expr]:
    """The expression builder of one Expr function."""
    return partial(apply, name)


def round_kind(name: str) -> Callable[[Expr], Expr]:
    """A rounding function; integers are round already."""
    return lambda x: apply(name, x) if x.dtype.is_float else x


def round_array(f: Callable[[Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A NumPy rounding function that leaves integers, and sizes, as they are."""
    return lambda x: f(x) if x.dtype.kind == "f" else x


def sign(x: Expr) -> Expr:
    """-1, 0 or 1; NaN stays NaN."""
    zero, one = const(0, x.dtype), const(1, x.dtype)
    if x.dtype.kind == "uint":
        return select(apply("eq", x, zero), zero, one)
    below = select(apply("lt", x, zero), const(-1, x.dtype), select(apply("eq", x, zero), zero, x))
    return select(apply("gt", x, zero), one, below)


def absolute(x: Expr) -> Expr:
    """|x|; unsigned integers have no sign."""
    return x if x.dtype.kind == "uint" else apply("abs", x)


def _sign_of_size(x: Size) -> int:
    return 1 if x > 0 else -1 if x < 0 else 0


def _absolute_size(x: Size) -> Size:
    return x if x >= 0 else -x


TABLE = (
    Row("neg", fn("neg"), np.negative, NUMBER, "Neg", tracks=True),
    Row(
        "abs", absolute, np.abs, NUMBER, "Abs",
        tracks=True, sizes=np.frompyfunc(_absolute_size, 1, 1),
    ),
    Row(
        "sign", sign, np.sign, NUMBER, "Sign",
        tracks=True, sizes=np.frompyfunc(_sign_of_size, 1, 1),
    ),
    Row("ceil", round_kind("ceil"), round_array(np.ceil), NUMBER, "Ceil", tracks=True),
    Row("floor", round_kind("floor"), round_array(np.floor), NUMBER, "Floor", tracks=True),
    Row(
        "round", round_kind("rint"), round_array(np.rint), NUMBER, "Round",
        tracks=True, doc="Halves go to the even neighbour.",
    ),
    Row("sqrt", fn("sqrt"), np.sqrt, FLOAT, "Sqrt", domain=POSITIVE),
    Row("reciprocal", lambda x: 1.0 / x, lambda x: 1.0 / x, FLOAT, "Reciprocal"),
    Row("exp", fn("exp"), np.exp, FLOAT, "Exp", ulp=2),
    Row("log", fn("log"), np.log, FLOAT, "Log", domain=POSITIVE, ulp=2),
    Row("sin", fn("sin"), np.sin, FLOAT, "Sin", ulp=2),
    Row("cos", fn("cos"), np.cos, FLOAT, "Cos", ulp=2),
    Row("tan", fn("tan"), np.tan, FLOAT, "Tan", ulp=2),
    Row("asin", fn("asin"), np.arcsin, FLOAT, "Asin", domain=UNIT, ulp=2),
    Row("acos", fn("acos"), np.arccos, FLOAT, "Acos", domain=UNIT, ulp=2),
    Row("atan", fn("atan"), np.arctan, FLOAT, "Atan", ulp=2),
    Row("sinh", fn("sinh"), np.sinh, FLOAT, "Sinh", ulp=2),
    Row("cosh", fn("cosh"), np.cosh, FLOAT, "Cosh", ulp=2),
    Row("tanh", fn("tanh"), np.tanh, FLOAT, "Tanh", ulp=2),
    Row("asinh", fn("asinh"), np.arcsinh, FLOAT, "Asinh", ulp=2),
    Row("acosh", fn("acosh"), np.arccosh, FLOAT, "Acosh", domain=(1.0, 9.0), ulp=2),
    Row("atanh", fn("atanh"), np.arctanh, FLOAT, "Atanh", domain=UNIT, ulp=2),
    Row("erf", fn("erf"), erf, FLOAT, "Erf", ulp=2),
    Row("sigmoid", fn("sigmoid"), sigmoid, FLOAT, "Sigmoid", ulp=2),
    Row("not", fn("not"), np.logical_not, BOOL, "Not", tracks=True),
    Row("bitwise_not", fn("not"), np.invert, (*INTEGER, "bool"), "BitwiseNot"),
    Row(
        "is_nan", lambda x: apply("ne", x, x) if x.dtype.is_float else const(False, x.dtype),
        np.isnan, FLOAT, "IsNaN", result="bool",
    ),
)  # fmt: skip

declare_all(TABLE)
