"""sin, cos and tan: reduction to |r| <= pi/4 and a quadrant, polynomials, a separate path for huge arguments."""

from __future__ import annotations

from collections.abc import Callable

from compiler.expr import Expr, apply, bitcast
from compiler.mathlib.arithmetic import (
    absolute,
    choose,
    equal,
    fast_two_sum,
    fma,
    format_of,
    greater,
    horner,
    integer_bits,
    number,
    parts,
)
from compiler.mathlib.huge_angle import reduce_huge

FAST_LIMIT = 2.0**16  # the quotient by pi/2 has 16 bits: its products with the parts of pi/2 cancel exactly

# An angle as (quadrant as integer, r, what r lacks or None): angle = quadrant * pi/2 + r.
Angle = tuple[Expr, Expr, Expr | None]


def _by_angle(x: Expr, function: Callable[[Angle], Expr]) -> Expr:
    common = function(_reduce(x))
    rare = function(reduce_huge(x))
    return apply("unlikely", greater(absolute(x), FAST_LIMIT), rare, common)


def _reduce(x: Expr) -> Angle:
    """Cody and Waite's reduction with three parts of pi/2 and fma; float64 also gives what r lost."""
    form = format_of(x)
    shifted = fma(x, 2.0 * parts("inverse_pi", form, 1)[0], form.magic)
    k = shifted - form.magic
    high, middle, low = parts("half_pi", form, 3)
    first = fma(k, -high, x)
    second = fma(k, -middle, first)
    quadrant = integer_bits(shifted)
    if form.bits == 24:
        return quadrant, fma(k, -low, second), None
    lost = fma(k, -middle, first - second)
    return quadrant, *fast_two_sum(second, fma(k, -low, lost))


def sin(x: Expr) -> Expr:
    """The sine of an angle in radians."""
    return choose(equal(x, 0.0), x, _by_angle(x, lambda angle: _wave(angle, 0)))


def cos(x: Expr) -> Expr:
    """The cosine of an angle in radians."""
    return _by_angle(x, lambda angle: _wave(angle, 1))


def _wave(angle: Angle, turn: int) -> Expr:
    quadrant, r, low = angle
    quadrant = quadrant + turn if turn else quadrant
    odd = equal(apply("and", quadrant, number(1, quadrant)), 1)
    value = choose(odd, _cosine(r, low), _sine(r, low))
    return _negate_where(value, quadrant)


def _negate_where(value: Expr, quadrant: Expr) -> Expr:
    """`value` with its sign flipped where bit 1 of the quadrant is set."""
    width = quadrant.dtype.bits
    sign = apply("shl", apply("shr", quadrant, number(1, quadrant)), number(width - 1, quadrant))
    return bitcast(apply("xor", integer_bits(value), sign), value.dtype)


def _sine_tail(r: Expr, low: Expr | None) -> Expr:
    """sin(r + low) - r."""
    z = r * r
    cubic = (z * r) * horner(z, format_of(r).table("SIN"))
    return cubic if low is None else cubic + fma(z * -0.5, low, low)


def _cosine_tail(r: Expr, low: Expr | None) -> Expr:
    """cos(r + low) - 1."""
    z = r * r
    tail = fma(z * z, horner(z, format_of(r).table("COS")), z * -0.5)
    return tail if low is None else fma(-r, low, tail)


def _sine(r: Expr, low: Expr | None) -> Expr:
    return r + _sine_tail(r, low)


def _cosine(r: Expr, low: Expr | None) -> Expr:
    return _cosine_tail(r, low) + 1.0


def tan(x: Expr) -> Expr:
    """The tangent of an angle in radians."""
    value = _by_angle(x, _tangent_single if format_of(x).bits == 24 else _tangent_double)
    return choose(equal(x, 0.0), x, value)


def _tangent_single(angle: Angle) -> Expr:
    """A polynomial; its inverse is corrected for what both lost."""
    quadrant, r, _ = angle
    z = r * r
    tangent, low = fast_two_sum(r, (z * r) * horner(z, format_of(r).table("TAN")))
    odd = equal(apply("and", quadrant, number(1, quadrant)), 1)
    inverse = number(-1.0, r) / tangent
    rest = fma(inverse, low, fma(inverse, tangent, 1.0))
    return choose(odd, fma(rest, inverse, inverse), tangent)


def _tangent_double(angle: Angle) -> Expr:
    """Sine over cosine, both with what they lost, and one correction of the quotient."""
    quadrant, r, low = angle
    sine, sine_low = fast_two_sum(r, _sine_tail(r, low))
    cosine, cosine_low = fast_two_sum(number(1.0, r), _cosine_tail(r, low))
    odd = equal(apply("and", quadrant, number(1, quadrant)), 1)
    above, above_low = choose(odd, -cosine, sine), choose(odd, -cosine_low, sine_low)
    below, below_low = choose(odd, sine, cosine), choose(odd, sine_low, cosine_low)
    inverse = number(1.0, r) / below
    quotient = above * inverse
    rest = fma(-quotient, below, above) + fma(-quotient, below_low, above_low)
    return fma(rest, inverse, quotient)
