"""Reduction of huge angles by pi/2 (Payne and Hanek, 1983) without table gathers.

x = M * 2^E with an integer M. Bits of 2/pi whose product with M * 2^E is a multiple of 4 do not matter, nor do those
far below the result's precision: a window of 2/pi that starts at bit E - 2 is enough. It is picked from constant 64-bit
words by selects on the bits of the word number, then shifted into place.
"""

from __future__ import annotations

from itertools import pairwise

from compiler import dtypes
from compiler.expr import Expr, apply, bitcast, cast, const
from compiler.mathlib.arithmetic import (
    DOUBLE,
    absolute,
    choose,
    equal,
    fast_two_sum,
    fma,
    format_of,
    less,
    number,
    parts,
    two_product,
    two_sum,
)

_PADDING = 64  # zero bits before 2/pi: a window may start at weights above 1
# 2/pi to 1216 bits after the point.
_TWO_OVER_PI = int(
    "A2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561B7246E3A424DD2E006492EEA09D1921C"
    "FE1DEB1CB129A73EE88235F52EBB4484E99C7026B45F7E413991D639835339F49C845F8BBDF9283B1FF897FFDE05980F"
    "EF2F118B5A0A6D1F6D367ECF27CB09B74F463F669E5FEA2D7527BAC7EBE5F17B3D0739F78A5292EA6BFB5FB11F8D5D08"
    "56033046FC7B6BAB",
    16,
)
_BITS = 1216


def _word(value: int) -> Expr:
    return const(value, dtypes.uint64)


def _shr(x: Expr, count: int) -> Expr:
    return apply("shr", x, _word(count))


def _low(x: Expr) -> Expr:
    return apply("and", x, _word(0xFFFF_FFFF))


def reduce_huge(x: Expr) -> tuple[Expr, Expr, Expr]:
    """(quadrant, r, low) of x by pi/2: a 64-bit integer and two float64, |r| <= pi/4, for |x| >= 2^16.

    float32 angles need only three 32-bit limbs of the window. r is NaN for infinite and NaN x.
    """
    form = format_of(x)
    single = form.bits == 24
    unsigned = dtypes.uint32 if single else dtypes.uint64
    bits = cast(bitcast(absolute(x), unsigned), dtypes.uint64)
    mantissa = apply("or", apply("and", bits, _word((1 << form.stored) - 1)), _word(1 << form.stored))
    # E - 2 counted from the padding; E = field - bias - stored.
    start = _shr(bits, form.stored) - (form.bias + form.stored + 2 - _PADDING)
    largest = 2 * form.bias - (form.bias + form.stored + 2 - _PADDING)
    product = _multiply(mantissa, _window(start, largest, 3 if single else 6), single)
    quadrant, fraction, fraction_low = _split(product)
    high, low = parts("half_pi", DOUBLE, 2)
    angle, error = two_product(fraction, number(high, fraction))
    angle, angle_low = fast_two_sum(angle, fma(fraction, low, fma(fraction_low, high, error)))
    negative = less(x, 0.0)
    quadrant = cast(choose(negative, -quadrant, quadrant), dtypes.int64)
    angle = choose(less(absolute(x), float("inf")), choose(negative, -angle, angle), float("nan"))
    return quadrant, angle, choose(negative, -angle_low, angle_low)


def _window(start: Expr, largest: int, limbs: int) -> list[Expr]:
    """`limbs` 32-bit limbs of padded 2/pi from bit `start` on (at most `largest`), most significant first."""
    wanted = (limbs + 1) // 2 + 1
    table = _TWO_OVER_PI << (-_BITS % 64)
    count = largest // 64 + wanted
    total = (_BITS + 63) // 64
    words = [0] + [(table >> (64 * (total - 1 - i))) & (2**64 - 1) for i in range(total)]
    candidates = [_word(w) for w in words[:count]]
    number_of_word = _shr(start, 6)
    step = 1 << max((largest // 64).bit_length() - 1, 0)
    while step:
        chosen = equal(apply("and", number_of_word, _word(step)), _word(step))
        keep = min(len(candidates), wanted + step - 1)
        candidates = [
            choose(chosen, candidates[i + step], candidates[i]) if i + step < len(candidates) else candidates[i]
            for i in range(keep)
        ]
        step //= 2
    shift = apply("and", start, _word(63))
    back = _word(64) - shift
    shifted = [apply("or", apply("shl", a, shift), apply("shr", b, back)) for a, b in pairwise(candidates)]
    return [half for word in shifted for half in (_shr(word, 32), _low(word))][:limbs]


def _multiply(mantissa: Expr, window: list[Expr], single: bool) -> list[Expr]:
    """The low limbs of mantissa * window, as many as the window has, most significant first."""
    limbs = window[::-1]
    rows = [mantissa] if single else [_low(mantissa), _shr(mantissa, 32)]
    result: list[Expr] = [_word(0)] * len(limbs)
    for shift, factor in enumerate(rows):
        carry = _word(0)
        for i in range(shift, len(limbs)):
            total = fma(factor, limbs[i - shift], carry) + result[i]
            result[i], carry = _low(total), _shr(total, 32)
    return result[::-1]


def _split(product: list[Expr]) -> tuple[Expr, Expr, Expr]:
    """Of a fixed-point number with 2 integer bits: the nearest integer, and the rest, within 1/2, as a float64 sum."""
    padded = [*product, *[_word(0)] * (5 - len(product))]
    first, *others = [_low(apply("or", apply("shl", a, _word(2)), _shr(b, 30))) for a, b in pairwise(padded)]
    top = _shr(first, 31)
    quadrant = _shr(product[0], 30) + top
    signed = cast(bitcast(first, dtypes.int64), dtypes.float64) - cast(top, dtypes.float64) * 2.0**32
    terms = [signed * 2.0**-32, *(cast(w, dtypes.float64) * 2.0 ** (-64 - 32 * i) for i, w in enumerate(others))]
    total, error = two_sum(terms[0], terms[1])
    total, more = two_sum(total, terms[2])
    return quadrant, *fast_two_sum(total, (error + more) + terms[3])
