"""erf, erfc and the normal distribution function."""

from __future__ import annotations

from compiler.expr import Expr
from compiler.mathlib import coefficients
from compiler.mathlib.arithmetic import (
    absolute,
    choose,
    clamp,
    copysign,
    fma,
    format_of,
    greater,
    horner,
    less,
    number,
    scale,
    two_product,
)
from compiler.mathlib.exponential import exp_minus_one, reduce_by_ln2


def erf(x: Expr) -> Expr:
    """The error function: a rational function in float32; a polynomial near 0 and 1 - erfc beyond in float64."""
    form = format_of(x)
    if form.bits == 24:
        x = clamp(x, -coefficients.ERF_LIMIT_24, coefficients.ERF_LIMIT_24)
        square = x * x
        return (x * horner(square, coefficients.ERF_24_P)) / horner(square, coefficients.ERF_24_Q)
    size = absolute(x)
    square = x * x
    near = x * horner(square, form.table("ERF"))
    return choose(less(size, 0.5), near, copysign(number(1.0, x) - gaussian_tail(size, "erfc"), x))


def erfc(x: Expr) -> Expr:
    """1 - erf(x) without cancellation, denormal results included."""
    tail = gaussian_tail(absolute(x), "erfc")
    return choose(less(x, 0.0), number(2.0, x) - tail, tail)


def normcdf(x: Expr) -> Expr:
    """The distribution function of the standard normal distribution."""
    tail = gaussian_tail(absolute(x), "normcdf")
    return choose(greater(x, 0.0), number(1.0, x) - tail, tail)


def gaussian_tail(u: Expr, name: str) -> Expr:
    """erfc(u), or normcdf(-u), for u >= 0: e^(-u^2) (or e^(-u^2 / 2)) times a slowly varying factor.

    The factor times (u + a) is a polynomial in (u - a) / (u + a), after Shepherd and Laframboise, "Chebyshev
    approximation of (1 + 2x) exp(x^2) erfc x", 1981. The rounding errors of u^2, of 1 / (u + a) and of the product are
    folded into the last fma.
    """
    form = format_of(u)
    centre, limit = coefficients.TAIL_CENTRE[name][form.bits], coefficients.TAIL_LIMIT[name][form.bits]
    u = clamp(u, None, limit)
    shifted = u + centre
    inverse = number(1.0, u) / shifted
    series = horner((u - centre) * inverse, form.table(name.upper()))
    factor, factor_low = two_product(series, inverse)
    exponent = -1.0 if name == "erfc" else -0.5
    square, square_low = two_product(u, u)
    r, bits = reduce_by_ln2(square * exponent, 2 * form.bias)
    change = exp_minus_one(fma(square_low, exponent, r))
    return scale(factor + fma(factor, change, factor_low), bits)
