"""pow and cbrt. float32 computes in float64 and rounds once; float64 pow carries its logarithm to about 68 bits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from compiler import dtypes
from compiler.expr import Expr, apply, bitcast, cast, const
from compiler.mathlib.arithmetic import (
    absolute,
    choose,
    copysign,
    equal,
    fast_two_sum,
    fma,
    format_of,
    greater,
    horner,
    integer_bits,
    less,
    number,
    parts,
    round_fraction,
    two_product,
)
from compiler.mathlib.exponential import exp2_of_sum
from compiler.mathlib.logarithm import log_tail, split_exponent

_INFINITY, _NAN = float("inf"), float("nan")


def pow(x: Expr, y: Expr) -> Expr:
    """x^y with C's special cases."""
    if x.dtype == dtypes.float32:
        wide_x, wide_y = (cast(v, dtypes.float64) for v in (x, y))
        return cast(_pow(wide_x, wide_y, _log2_double), dtypes.float32)
    return _pow(x, y, _log2_extended)


def _pow(x: Expr, y: Expr, log2: Callable[[Expr], tuple[Expr, Expr]]) -> Expr:
    size = absolute(x)
    high, low = log2(size)
    high = choose(less(size, _INFINITY), choose(equal(size, 0.0), -_INFINITY, high), _INFINITY)
    product, error = two_product(y, high)
    # Far out of range, or infinite, the low part is not a number worth adding.
    error = choose(less(absolute(product), 2048.0), fma(y, low, error), 0.0)
    return _special_powers(x, y, exp2_of_sum(product, error))


def _special_powers(x: Expr, y: Expr, result: Expr) -> Expr:
    """`result` = |x|^y given the sign, and the values C's Annex F asks for."""
    whole = equal(apply("trunc", y), y)
    half = y * 0.5
    odd = apply("and", whole, apply("ne", apply("trunc", half), half))
    negative = less(integer_bits(x), 0)
    signed = choose(apply("and", odd, negative), -result, result)
    finite_below = apply("and", less(x, 0.0), greater(x, -_INFINITY))
    domain_error = apply("and", finite_below, apply("not", whole))
    # 1^y is 1, also for infinite and NaN y; (-1)^y is 1 for infinite y.
    one = apply("or", equal(x, 1.0), apply("and", equal(x, -1.0), equal(absolute(y), _INFINITY)))
    one = apply("or", one, equal(y, 0.0))
    unordered = apply("or", apply("ne", x, x), apply("ne", y, y))
    undefined = apply("or", domain_error, unordered)
    return choose(one, number(1.0, x), choose(undefined, _NAN, signed))


def _log2_double(x: Expr) -> tuple[Expr, Expr]:
    """log2 of positive finite x in plain float64: enough for a float32 power."""
    k, mantissa = split_exponent(x)
    f = mantissa - 1.0
    inverse = parts("log2e", format_of(x), 1)[0]
    return fma(f + log_tail(f), inverse, cast(k, x.dtype)), number(0.0, x)


def _log2_extended(x: Expr) -> tuple[Expr, Expr]:
    """log2 of positive finite x as a sum of two float64, relative error about 2^-65.

    log m = 2 s (1 + z/3 + z^2 (1/5 + ...)) with s = (m - 1) / (m + 1), z = s^2; all but the last term in two parts.
    """
    form = format_of(x)
    integer, mantissa = split_exponent(x)
    k, f = cast(integer, x.dtype), mantissa - 1.0
    above, above_low = fast_two_sum(number(2.0, x), f)
    inverse = number(1.0, x) / above
    s = f * inverse
    s_low = fma(-s, above_low, fma(-s, above, f)) * inverse
    z, z_error = two_product(s, s)
    z_low = fma(s + s, s_low, z_error)
    third = Fraction(2, 3)
    third_high = round_fraction(third, form.bits)
    c, c_error = fast_two_sum(number(third_high, x), z * horner(z, form.table("POW")))
    c_low = c_error + float(third - Fraction(third_high))
    v, v_error = two_product(z, c)
    v_low = fma(z, c_low, fma(z_low, c, v_error))
    cubic, cubic_error = two_product(s, v)
    cubic_low = fma(s, v_low, fma(s_low, v, cubic_error))
    total, error = fast_two_sum(s + s, cubic)
    total_low = error + (cubic_low + (s_low + s_low))
    log2e, log2e_low = parts("log2e", form, 2)
    scaled, scaled_error = two_product(total, number(log2e, x))
    scaled_low = fma(total, log2e_low, fma(total_low, log2e, scaled_error))
    high, error = fast_two_sum(k, scaled)
    return fast_two_sum(high, error + scaled_low)


def cbrt(x: Expr) -> Expr:
    """The real cube root."""
    if x.dtype == dtypes.float32:
        return cast(_cbrt(cast(x, dtypes.float64)), dtypes.float32)
    return _cbrt(x)


def _cbrt(x: Expr) -> Expr:
    """A guess from a third of the exponent, two steps of Halley's iteration, one of Newton's with an exact residual."""
    size = absolute(x)
    tiny, large = less(size, 2.0**-960), greater(size, 2.0**960)
    a = size * choose(tiny, number(2.0**120, x), choose(large, number(2.0**-120, x), 1.0))
    root = _cube_root_guess(a)
    for _ in range(2):
        cube = root * root * root
        root = root * ((cube + (a + a)) / ((cube + cube) + a))
    square, square_low = two_product(root, root)
    rest = fma(-root, square_low, fma(-root, square, a))
    root = root + rest / (square * 3.0)
    scaled = root * choose(tiny, number(2.0**-40, x), choose(large, number(2.0**40, x), 1.0))
    regular = apply("and", greater(size, 0.0), less(size, _INFINITY))
    return choose(regular, copysign(scaled, x), x)


def _cube_root_guess(a: Expr) -> Expr:
    """Within 5%: the upper half of the bits divided by 3, plus two thirds of the bias (Kahan)."""
    upper = apply("shr", bitcast(a, dtypes.uint64), const(32, dtypes.uint64))
    third = apply("shr", upper * 0x55555556, const(32, dtypes.uint64))
    return bitcast(apply("shl", third + 715094163, const(32, dtypes.uint64)), dtypes.float64)
