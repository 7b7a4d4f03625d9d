"""Logarithms and inverse hyperbolic functions: exponent and mantissa apart, a series for log(1 + f)."""

from __future__ import annotations

from compiler.expr import Expr, apply, bitcast, cast
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
    power_of_two,
    two_product,
    two_sum,
)

_INFINITY, _NAN = float("inf"), float("nan")
_SQRT_HALF_BITS = {24: 0x3F3504F3, 53: 0x3FE6A09E667F3BCD}


def split_exponent(x: Expr) -> tuple[Expr, Expr]:
    """(k as integer, m) with x = m * 2^k and m in [sqrt(1/2), sqrt 2), for positive finite x, denormals included."""
    form = format_of(x)
    tiny = less(x, form.smallest_normal)
    bits = integer_bits(choose(tiny, x * 2.0**form.bits, x))
    start = number(_SQRT_HALF_BITS[form.bits], bits)
    k = apply("shr", bits - start, number(form.stored, bits))
    mantissa = bitcast(bits - apply("shl", k, number(form.stored, bits)), form.dtype)
    return choose(tiny, k - form.bits, k), mantissa


def log_tail(f: Expr) -> Expr:
    """log(1 + f) - f for 1 + f in [sqrt(1/2), sqrt 2)."""
    form = format_of(f)
    square = f * f
    if form.bits == 24:
        return fma(square * f, horner(f, form.table("LOG")), square * -0.5)
    half_square = square * 0.5
    s = f / (f + 2.0)
    z = s * s
    series = z * horner(z, form.table("LOG"))
    return fma(s, half_square + series, -half_square)


def with_specials(x: Expr, result: Expr) -> Expr:
    """`result` of a logarithm of x, or what belongs to infinite, zero, negative and NaN x."""
    positive = choose(less(x, _INFINITY), result, x)
    return choose(greater(x, 0.0), positive, choose(equal(x, 0.0), number(-_INFINITY, x), _NAN))


def log(x: Expr) -> Expr:
    """The natural logarithm."""
    k, mantissa = split_exponent(x)
    return with_specials(x, _natural(cast(k, x.dtype), mantissa - 1.0))


def _natural(k: Expr, f: Expr) -> Expr:
    """k ln 2 + log(1 + f)."""
    high, low = parts("ln2", format_of(f), 2)
    return fma(k, high, f + fma(k, low, log_tail(f)))


def log2(x: Expr) -> Expr:
    """The logarithm to base 2, exact for powers of 2."""
    return _log_base(x, "log2e", None)


def log10(x: Expr) -> Expr:
    """The logarithm to base 10."""
    return _log_base(x, "log10e", "log10_2")


def _log_base(x: Expr, inverse: str, exponent: str | None) -> Expr:
    form = format_of(x)
    integer, mantissa = split_exponent(x)
    k, f = cast(integer, x.dtype), mantissa - 1.0
    high, low = parts(inverse, form, 2)
    product, error = two_product(f, number(high, x))
    product_low = fma(f, low, fma(log_tail(f), high, error))
    if exponent is None:
        whole, whole_low = k, number(0.0, x)
    else:
        high, low = parts(exponent, form, 2)
        whole, error = two_product(k, number(high, x))
        whole_low = fma(k, low, error)
    total, error = fast_two_sum(whole, product)
    return with_specials(x, total + (error + (product_low + whole_low)))


def log_of_sum(high: Expr, low: Expr, extra: int = 0) -> Expr:
    """log((high + low) * 2^extra), |low| at most an ulp of `high`; specials by `high`."""
    form = format_of(high)
    k, mantissa = split_exponent(high)
    # Far out `low` no longer counts, and its scale must stay a number.
    bounded = apply("min", k, number(form.bias // 2, k))
    down = power_of_two(number(form.bias, k) - bounded, form)
    f = fma(low, down, mantissa - 1.0)
    return with_specials(high, _natural(cast(k + extra if extra else k, high.dtype), f))


def log1p(x: Expr) -> Expr:
    """log(1 + x), accurate for tiny x."""
    total, error = two_sum(number(1.0, x), x)
    return copysign(log_of_sum(total, error), x)


def asinh(x: Expr) -> Expr:
    """log(x + sqrt(x^2 + 1))."""
    form, size = format_of(x), absolute(x)
    square = size * size
    near = fma(size * square, horner(square, form.table("ASINH")), size)
    root = choose(greater(size, 2.0**form.bits), size, apply("sqrt", square + 1.0))
    half, error = fast_two_sum(root * 0.5, size * 0.5)
    return copysign(choose(less(size, 1.0), near, log_of_sum(half, error, 1)), x)


def acosh(x: Expr) -> Expr:
    """log(x + sqrt(x^2 - 1)); NaN below 1."""
    form = format_of(x)
    above = x - 1.0
    leading = apply("sqrt", above + above)
    near = fma(leading * above, horner(above, form.table("ACOSH")), leading)
    root = choose(greater(x, 2.0**form.bits), x, apply("sqrt", fma(x, x, -1.0)))
    half, error = fast_two_sum(x * 0.5, root * 0.5)
    return choose(less(x, 2.0), near, log_of_sum(half, error, 1))


def atanh(x: Expr) -> Expr:
    """log((1 + x) / (1 - x)) / 2; NaN beyond 1."""
    form, size = format_of(x), absolute(x)
    square = size * size
    near = fma(size * square, horner(square, form.table("ATANH")), size)
    above, above_low = fast_two_sum(number(1.0, x), size)
    below = number(1.0, x) - size
    ratio = above / below
    ratio_low = (fma(-ratio, below, above) + above_low) / below
    return copysign(choose(less(size, 0.5), near, log_of_sum(ratio, ratio_low) * 0.5), x)
