"""sin, cos and tan: reduction to |r| <= pi/4 and a quadrant, polynomials, a separate path for huge arguments."""

from __future__ import annotations

from collections.abc import Callable

from compiler.expr import Expr, apply, bitcast, cast
from compiler.mathlib.arithmetic import (
    DOUBLE,
    SINGLE,
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
    rare = function(_reduce_huge(x))
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


def _reduce_huge(x: Expr) -> Angle:
    form = format_of(x)
    quadrant, r, low = reduce_huge(x)
    return cast(quadrant, form.integer), cast(r, form.dtype), None if form.bits == 24 else low


def sin(x: Expr) -> Expr:
    """The sine of an angle in radians."""
    return choose(equal(x, 0.0), x, _by_angle(x, lambda angle: _wave(angle, 0)))


def cos(x: Expr) -> Expr:
    """The cosine of an angle in radians."""
    return _by_angle(x, lambda angle: _wave(angle, 1))


def _wave(angle: Angle, turn: int) -> Expr:
    quadrant, r, low = angle
    quadrant = quadrant + turn if turn else quadrant
    value = choose(_is_odd(quadrant), _cosine_tail(r, low) + 1.0, r + _sine_tail(r, low))
    return _negate_where(value, quadrant)


def _is_odd(quadrant: Expr) -> Expr:
    return equal(apply("and", quadrant, number(1, quadrant)), 1)


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


def tan(x: Expr) -> Expr:
    """The tangent of an angle in radians; float32 computes in float64."""
    if format_of(x).bits == 53:
        value = _by_angle(x, _tangent)
    else:
        common = _short_tangent(_reduce(cast(x, DOUBLE.dtype)))
        rare = _short_tangent(reduce_huge(x))
        value = apply("unlikely", greater(absolute(x), FAST_LIMIT), rare, common)
    return choose(equal(x, 0.0), x, value)


def _short_tangent(angle: Angle) -> Expr:
    """A float32 tangent of a float64 angle."""
    quadrant, r, _ = angle
    z = r * r
    tangent = fma(z * r, horner(z, SINGLE.table("TAN")), r)
    return cast(choose(_is_odd(quadrant), number(-1.0, r) / tangent, tangent), SINGLE.dtype)


def _tangent(angle: Angle) -> Expr:
    """Sine over cosine, both with what they lost, and one correction of the quotient."""
    quadrant, r, low = angle
    sine, sine_low = fast_two_sum(r, _sine_tail(r, low))
    cosine, cosine_low = fast_two_sum(number(1.0, r), _cosine_tail(r, low))
    odd = _is_odd(quadrant)
    above, above_low = choose(odd, -cosine, sine), choose(odd, -cosine_low, sine_low)
    below, below_low = choose(odd, sine, cosine), choose(odd, sine_low, cosine_low)
    inverse = number(1.0, r) / below
    quotient = above * inverse
    rest = fma(-quotient, below, above) + fma(-quotient, below_low, above_low)
    return fma(rest, inverse, quotient)
