"""What the expansions are written with: formats, constants in several parts, polynomials, error-free sums, scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, apply, bitcast, const, select
from compiler.mathlib import coefficients


@dataclass(frozen=True)
class Format:
    """A binary format: its type, the integer type of its bits, significant bits and exponent bias."""

    dtype: DType
    integer: DType
    bits: int
    bias: int

    @property
    def stored(self) -> int:
        """Mantissa bits in memory."""
        return self.bits - 1

    @property
    def smallest_normal(self) -> float:
        """2^(1 - bias)."""
        return 2.0 ** (1 - self.bias)

    @property
    def magic(self) -> float:
        """1.5 * 2^stored: adding it rounds to an integer, found in the low bits of the sum."""
        return 1.5 * 2.0**self.stored

    def table(self, name: str) -> tuple[float, ...]:
        """The derived coefficients called `name` for this format."""
        return getattr(coefficients, f"{name}_{self.bits}")


SINGLE = Format(dtypes.float32, dtypes.int32, 24, 127)
DOUBLE = Format(dtypes.float64, dtypes.int64, 53, 1023)


def format_of(x: Expr) -> Format:
    """The format of a float32 or float64 expression."""
    return SINGLE if x.dtype == dtypes.float32 else DOUBLE


# Constants to 240 bits, in units of 2^-240; `parts` cuts them into floats.
_CONSTANTS = {
    "ln2": 0xB17217F7D1CF79ABC9E3B39803F2F6AF40F343267298B62D8A0D175B8BAB,
    "log2e": 0x171547652B82FE1777D0FFDA0D23A7D11D6AEF551BAD2B4B1164A2CD9A342,
    "log10e": 0x6F2DEC549B9438CA9AADD557D699EE191F71A30122E4D1011D1F96A27BC7,
    "log10_2": 0x4D104D427DE7FBCC47C4ACD605BE48BC13569862A1E8F9A4C52F37935BE6,
    "half_pi": 0x1921FB54442D18469898CC51701B839A252049C1114CF98E804177D4C7627,
    "inverse_pi": 0x517CC1B727220A94FE13ABE8FA9A6EE06DB14ACC9E21C820FF28B1D5EF5E,
}


@lru_cache
def parts(name: str, form: Format, count: int) -> tuple[float, ...]:
    """A constant as an unevaluated sum of `count` floats of the format, largest first."""
    rest = Fraction(_CONSTANTS[name], 1 << 240)
    found: list[float] = []
    for _ in range(count):
        found.append(round_fraction(rest, form.bits))
        rest -= Fraction(found[-1])
    return tuple(found)


def round_fraction(value: Fraction, bits: int) -> float:
    """`value` rounded to nearest with `bits` significant bits (no over- or underflow)."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - bits
    unit = Fraction(2) ** exponent
    while abs(value) / unit >= 1 << bits:
        unit *= 2
    return float(round(value / unit) * unit)


def number(value: float, like: Expr) -> Expr:
    """A constant of the type of `like`."""
    return const(value, like.dtype)


def fma(a: Expr, b: Expr | float, c: Expr | float) -> Expr:
    """a * b + c with one rounding."""
    return apply("fma", a, b if isinstance(b, Expr) else number(b, a), c if isinstance(c, Expr) else number(c, a))


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with the given coefficients, constant first."""
    value = number(coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        value = fma(value, x, coefficient)
    return value


def fast_two_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a + b rounded, and its error, for |a| >= |b| or a = 0 (Dekker)."""
    total = a + b
    return total, b - (total - a)


def two_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a + b rounded, and its error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a * b rounded, and its error."""
    product = a * b
    return product, fma(a, b, -product)


def absolute(x: Expr) -> Expr:
    """|x|."""
    return apply("abs", x)


def copysign(x: Expr, sign: Expr) -> Expr:
    """|x| with the sign of `sign`."""
    return apply("copysign", x, sign)


def less(a: Expr, b: Expr | float) -> Expr:
    """a < b."""
    return apply("lt", a, b if isinstance(b, Expr) else number(b, a))


def greater(a: Expr, b: Expr | float) -> Expr:
    """a > b."""
    return apply("gt", a, b if isinstance(b, Expr) else number(b, a))


def equal(a: Expr, b: Expr | float) -> Expr:
    """a == b."""
    return apply("eq", a, b if isinstance(b, Expr) else number(b, a))


def choose(condition: Expr, yes: Expr | float, no: Expr | float) -> Expr:
    """A select of which one side may be a Python number."""
    like = yes if isinstance(yes, Expr) else no
    assert isinstance(like, Expr)
    sides = (side if isinstance(side, Expr) else number(side, like) for side in (yes, no))
    return select(condition, *sides)


def clamp(x: Expr, low: float | None, high: float | None) -> Expr:
    """x within bounds, NaN kept."""
    if low is not None:
        x = apply("max", x, number(low, x))
    return x if high is None else apply("min", x, number(high, x))


def integer_bits(x: Expr) -> Expr:
    """The bits of a float as a signed integer."""
    return bitcast(x, format_of(x).integer)


def power_of_two(biased: Expr, form: Format) -> Expr:
    """The float whose exponent field is in the low bits of the integer `biased`."""
    return bitcast(apply("shl", biased, number(form.stored, biased)), form.dtype)


def scale(x: Expr, doubly_biased: Expr) -> Expr:
    """x * 2^k, rounded once, for |x| near 1; the low bits of the integer hold k + 2 * bias, k far beyond the range too.

    Two factors of about 2^(k/2): the first product is exact.
    """
    form = format_of(x)
    half = apply("shr", doubly_biased, number(1, doubly_biased))
    return x * power_of_two(half, form) * power_of_two(doubly_biased - half, form)
