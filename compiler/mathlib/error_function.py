"""erf, erfc and the normal distribution function."""

from __future__ import annotations

from compiler.expr import Expr, cast
from compiler.mathlib import coefficients
from compiler.mathlib.arithmetic import (
    DOUBLE,
    SINGLE,
    absolute,
    choose,
    clamp,
    copysign,
    fma,
    format_of,
    greater,
    horner,
    integer_bits,
    less,
    number,
    parts,
    power_of_two,
    scale,
    two_product,
    two_sum,
)
from compiler.mathlib.exponential import exp_minus_one, split_by_ln2

_EXPONENT = {"erfc": -1.0, "normcdf": -0.5}  # of u^2


def erf(x: Expr) -> Expr:
    """The error function: a series in x near 0, 1 - erfc beyond 1."""
    form, size = format_of(x), absolute(x)
    near = _erf_near(x)
    tail = _erfc_single(size) if form.bits == 24 else gaussian_tail(size, "erfc")
    return choose(less(size, 1.0), near, copysign(number(1.0, x) - tail, x))


def _erf_near(x: Expr) -> Expr:
    """erf(x) for |x| < 1."""
    return fma(x, horner(x * x, format_of(x).table("ERF")), x)


def _erfc_single(u: Expr) -> Expr:
    """erfc(u) for u > 1, good enough to be subtracted from 1 in float32: 2 to a polynomial."""
    exponent = horner(clamp(u, None, coefficients.ERF_LIMIT_24), coefficients.ERFC_LOG2_24)
    magic = SINGLE.magic + SINGLE.bias
    shifted = exponent + magic
    r = exponent - (shifted - magic)
    near_one = fma(horner(r, SINGLE.table("EXP2")), r, 1.0)
    return near_one * power_of_two(integer_bits(shifted), SINGLE)


def erfc(x: Expr) -> Expr:
    """1 - erf(x) without cancellation, denormal results included."""
    tail = gaussian_tail(absolute(x), "erfc")
    far = choose(less(x, 0.0), number(2.0, x) - tail, tail)
    if format_of(x).bits == 24:
        return far
    return choose(less(absolute(x), coefficients.TAIL_START["erfc"]), number(1.0, x) - _erf_near(x), far)


def normcdf(x: Expr) -> Expr:
    """The distribution function of the standard normal distribution."""
    tail = gaussian_tail(absolute(x), "normcdf")
    far = choose(greater(x, 0.0), number(1.0, x) - tail, tail)
    if format_of(x).bits == 24:
        return far
    near = fma(x, horner(x * x, coefficients.NORMCDF_NEAR_53), 0.5)
    return choose(less(absolute(x), coefficients.TAIL_START["normcdf"]), near, far)


def gaussian_tail(u: Expr, name: str) -> Expr:
    """erfc(u), or normcdf(-u), for u >= 0 (float64: from TAIL_START on).

    e^(-u^2), or e^(-u^2 / 2), times a slowly varying factor. That factor times (u + a) is a polynomial in
    (u - a) / (u + a), after Shepherd and Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981.
    """
    form = format_of(u)
    u = clamp(u, None, coefficients.TAIL_LIMIT[name][form.bits])
    return _tail_single(u, name) if form.bits == 24 else _tail_double(u, name)


def _tail_single(u: Expr, name: str) -> Expr:
    """In float64, rounded once: in float32 the compensations would cost as much, for 2 ulp instead of a half."""
    centre = coefficients.TAIL_CENTRE[name]
    wide, estimate = cast(u, DOUBLE.dtype), cast(number(1.0, u) / (u + centre), DOUBLE.dtype)
    inverse = fma(estimate, fma(-estimate, wide + centre, 1.0), estimate)
    series = horner(fma(inverse, -2.0 * centre, 1.0), SINGLE.table(name.upper()))
    exponent = (wide * wide) * (_EXPONENT[name] * parts("log2e", DOUBLE, 1)[0])
    magic = DOUBLE.magic + DOUBLE.bias
    shifted = exponent + magic
    r = exponent - (shifted - magic)
    power = fma(horner(r, SINGLE.table("EXP2")), r, 1.0) * power_of_two(integer_bits(shifted), DOUBLE)
    return cast((series * inverse) * power, SINGLE.dtype)


def _tail_double(u: Expr, name: str) -> Expr:
    """What the sum, the inverse, the last step of the polynomial and the square lose goes into the last fma."""
    form, centre, exponent = DOUBLE, coefficients.TAIL_CENTRE[name], _EXPONENT[name]
    shifted, shifted_low = two_sum(u, number(centre, u))
    inverse = number(1.0, u) / shifted
    lost = fma(-inverse, shifted_low, fma(-inverse, shifted, 1.0))
    double = inverse * (2.0 * centre)
    t = fma(-double, lost, number(1.0, u) - double)
    constant, constant_low, *rest = form.table(name.upper())
    slope = horner(t, rest)
    series = fma(slope, t, constant)
    series_low = fma(slope, t, number(constant, u) - series) + constant_low
    factor, factor_low = two_product(series, inverse)
    factor_low = fma(factor, lost, fma(series_low, inverse, factor_low))
    square, square_low = two_product(u, u)
    r, n, bits = split_by_ln2(square * exponent, 2 * form.bias)
    lost = fma(n, -parts("ln2", form, 2)[1], square_low * exponent)
    change = exp_minus_one(r)
    factor_low = fma(factor, fma(lost, change, lost), factor_low)
    return scale(factor + fma(factor, change, factor_low), bits)
