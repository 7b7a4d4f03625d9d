"""asin, acos, atan and atan2."""

from __future__ import annotations

from compiler.expr import Expr, apply
from compiler.mathlib.arithmetic import (
    absolute,
    choose,
    copysign,
    equal,
    fma,
    format_of,
    greater,
    horner,
    integer_bits,
    less,
    number,
    parts,
)


def atan(x: Expr) -> Expr:
    """The arc tangent: pi/2 - atan(1 / |x|) above 1."""
    size = absolute(x)
    steep = greater(size, 1.0)
    angle = _atan_to_one(choose(steep, number(1.0, x) / size, size))
    high, low = parts("half_pi", format_of(x), 2)
    return copysign(choose(steep, number(high, x) - (angle - low), angle), x)


def _atan_to_one(t: Expr) -> Expr:
    """atan(t) for t in [0, 1]."""
    z = t * t
    return fma(z * t, horner(z, format_of(t).table("ATAN")), t)


def atan2(y: Expr, x: Expr) -> Expr:
    """The angle of the point (x, y), in [-pi, pi]; signed zeros and infinities as in C."""
    form = format_of(x)
    height, width = absolute(y), absolute(x)
    steep = greater(height, width)
    below = choose(steep, height, width)
    ratio = choose(steep, width, height) / below
    # Both zero, or both infinite: as if on an axis, or on a diagonal.
    same = choose(equal(below, 0.0), number(0.0, x), 1.0)
    angle = _atan_to_one(choose(equal(height, width), same, ratio))
    left = less(integer_bits(x), 0)
    flip = apply("ne", steep, left)
    high, low = parts("half_pi", form, 2)
    base = choose(steep, number(high, x), choose(left, number(2 * high, x), 0.0))
    base_low = choose(steep, number(low, x), choose(left, number(2 * low, x), 0.0))
    return copysign(base + (choose(flip, -angle, angle) + base_low), y)


def _asin_parts(x: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """(whether |x| > 1/2, |x|, s, e): asin(s) = s + e + (what s lacks), s = |x| or sqrt((1 - |x|) / 2)."""
    form, size = format_of(x), absolute(x)
    large = greater(size, 0.5)
    half_rest = fma(size, -0.5, 0.5)
    square = choose(large, half_rest, size * size)
    root = apply("sqrt", half_rest)
    s = choose(large, root, size)
    tail = (s * square) * horner(square, form.table("ASIN"))
    # The rounding error of the root; the bound keeps 0 / 0 away.
    lost = fma(-root, root, half_rest) / apply("max", root + root, number(2.0**-60, x))
    return large, size, s, tail + choose(large, lost, 0.0)


def asin(x: Expr) -> Expr:
    """The arc sine; NaN beyond 1."""
    large, _, s, tail = _asin_parts(x)
    high, low = parts("half_pi", format_of(x), 2)
    far = (number(high, x) - (s + s)) - ((tail + tail) - low)
    return copysign(choose(large, far, s + tail), x)


def acos(x: Expr) -> Expr:
    """The arc cosine; NaN beyond 1."""
    large, _, s, tail = _asin_parts(x)
    high, low = parts("half_pi", format_of(x), 2)
    left = less(x, 0.0)
    signed, signed_tail = choose(left, -s, s), choose(left, -tail, tail)
    near = number(high, x) - (signed + (signed_tail - low))
    twice, twice_tail = s + s, tail + tail
    far = choose(left, number(2 * high, x) - (twice + (twice_tail - 2 * low)), twice + twice_tail)
    return choose(large, far, near)
