"""exp and its relatives: reduction by multiples of ln 2, a polynomial, scaling that reaches denormals."""

from __future__ import annotations

from compiler.expr import Expr, apply
from compiler.mathlib.arithmetic import (
    absolute,
    choose,
    clamp,
    copysign,
    fast_two_sum,
    fma,
    format_of,
    horner,
    integer_bits,
    less,
    number,
    parts,
    power_of_two,
    scale,
)

# Arguments beyond which exp is 0 or infinite, by the bits of the format.
LOWEST = {24: -104.0, 53: -746.0}
HIGHEST = {24: 89.0, 53: 710.0}


def split_by_ln2(x: Expr, offset: int) -> tuple[Expr, Expr, Expr]:
    """(r, n, bits): r = x - n * high(ln 2), exactly, about ln 2 / 2 at most; the low bits hold n + offset."""
    form = format_of(x)
    shifted = fma(x, parts("log2e", form, 1)[0], form.magic + offset)
    n = shifted - number(form.magic + offset, x)
    return fma(n, -parts("ln2", form, 1)[0], x), n, integer_bits(shifted)


def reduce_by_ln2(x: Expr, offset: int) -> tuple[Expr, Expr]:
    """(r, bits): r = x - n ln 2, about ln 2 / 2 at most; the low bits hold n + offset."""
    r, n, bits = split_by_ln2(x, offset)
    return fma(n, -parts("ln2", format_of(x), 2)[1], r), bits


def exp_minus_one(r: Expr, table: str = "EXP") -> Expr:
    """exp(r) - 1 for small r: r + r^2 Q(r)."""
    return fma(r * r, horner(r, format_of(r).table(table)), r)


def exp(x: Expr) -> Expr:
    """e^x."""
    form = format_of(x)
    return _exp_clamped(clamp(x, LOWEST[form.bits], HIGHEST[form.bits]), 2 * form.bias)


def _exp_clamped(x: Expr, offset: int) -> Expr:
    """e^x * 2^(offset - 2 bias), x within the clamps."""
    r, bits = reduce_by_ln2(x, offset)
    near_one = fma(fma(horner(r, format_of(x).table("EXP")), r, 1.0), r, 1.0)
    return scale(near_one, bits)


def exp2(x: Expr) -> Expr:
    """2^x."""
    return exp2_of_sum(x, None)


def expm1(x: Expr) -> Expr:
    """e^x - 1 without cancellation. Computed as half the result, so that 2^(n - 1) never overflows."""
    form = format_of(x)
    near = less(absolute(x), 0.5)
    # Below -0.7 * bits - 2 the result rounds to -1.
    clamped = clamp(x, -0.7 * form.bits - 2.0, HIGHEST[form.bits])
    reduced, bits = reduce_by_ln2(clamped, form.bias - 1)
    small = exp_minus_one(choose(near, x, reduced), "EXPM1")
    half_power = power_of_two(bits, form)
    half = fma(small, half_power, half_power - 0.5)
    return copysign(choose(near, small, half + half), x)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x), with e^x of the negative side computed as such: tiny results are exact too."""
    form = format_of(x)
    r, bits = reduce_by_ln2(clamp(-absolute(x), LOWEST[form.bits], None), 2 * form.bias)
    small = scale(exp_minus_one(r) + 1.0, bits)
    below, below_low = fast_two_sum(number(1.0, x), small)
    quotient = choose(less(x, 0.0), small, 1.0) / below
    return fma(-quotient, below_low, quotient)


def half_exp(x: Expr) -> Expr:
    """e^x / 2 for x >= 0, infinite only where that is."""
    form = format_of(x)
    return _exp_clamped(clamp(x, None, HIGHEST[form.bits] + 1.0), 2 * form.bias - 1)


def sinh(x: Expr) -> Expr:
    """(e^x - e^-x) / 2."""
    form, size = format_of(x), absolute(x)
    square = size * size
    near = fma(size * square, horner(square, form.table("SINH")), size)
    half = half_exp(size)
    return copysign(choose(less(size, 1.0), near, half - number(0.25, x) / half), x)


def cosh(x: Expr) -> Expr:
    """(e^x + e^-x) / 2."""
    half = half_exp(absolute(x))
    return half + number(0.25, x) / half


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent: a series near 0, 1 - 2 / (e^2x + 1) beyond."""
    form, size = format_of(x), absolute(x)
    square = size * size
    near = fma(size * square, horner(square, form.table("TANH")), size)
    r, bits = reduce_by_ln2(clamp(size + size, None, 40.0), form.bias)
    grown = fma(fma(horner(r, form.table("EXP")), r, 1.0), r, 1.0) * power_of_two(bits, form)
    far = number(1.0, x) - number(2.0, x) / (grown + 1.0)
    return copysign(choose(less(size, 0.55), near, far), x)


def exp2_of_sum(high: Expr, low: Expr | None) -> Expr:
    """2^(high + low), `low` tiny."""
    form = format_of(high)
    high = clamp(high, -float(form.bias + form.bits), form.bias + 2.0)
    magic = form.magic + 2 * form.bias
    shifted = high + magic
    r = high - (shifted - magic)
    r = r if low is None else r + low
    return scale(fma(horner(r, form.table("EXP2")), r, 1.0), integer_bits(shifted))


def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x), both rounded as IEEE asks."""
    return number(1.0, x) / apply("sqrt", x)
