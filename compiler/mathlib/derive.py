"""Derives compiler/mathlib/coefficients.py. A development tool: run `python -m compiler.mathlib.derive`.

Each polynomial is a weighted least-squares fit, at Chebyshev nodes and in high precision, of what remains of a
function after its exactly representable leading terms: within a small factor of minimax. Its degree is the least that
meets the wanted error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.prec = 320
Function = Callable[[Any], Any]
LN2, PI = mp.log(2), mp.pi


def rounded(value: Any, bits: int) -> float:
    """The nearest float of 24 or 53 bits."""
    return float(np.float32(float(value))) if bits == 24 else float(value)


def nodes(low: Any, high: Any, count: int) -> list[Any]:
    """Chebyshev nodes of an interval."""
    middle, half = (mp.mpf(high) + low) / 2, (mp.mpf(high) - low) / 2
    return [middle + half * mp.cos(PI * (2 * i + 1) / (2 * count)) for i in range(count)]


def fitted(values: list[tuple[Any, Any, Any]], degree: int, known: list[float]) -> list[Any]:
    """Weighted least squares on (point, value, weight) rows for the coefficients after the `known` leading ones."""
    first = len(known)
    rows = [[w * x**k for k in range(first, degree + 1)] for x, _, w in values]
    right = [w * (value - (mp.polyval(known[::-1], x) if known else 0)) for x, value, w in values]
    return list(mp.lu_solve(mp.matrix(rows), mp.matrix(right)))


def polynomial(
    remainder: Function, weight: Function, low: Any, high: Any, bits: int, slack: int = 4, split: bool = False
) -> list[float]:
    """The shortest polynomial whose error times `weight` stays below 2^-(bits + slack) before rounding.

    With `split` the constant is given in two parts, the first two numbers.

    Coefficients are rounded one by one from the constant on, each time fitting the later ones anew, so that they
    make up for the rounding.
    """
    values = [(x, remainder(x), weight(x)) for x in nodes(low, high, 62)]
    for degree in range(1, 45):
        exact = fitted(values, degree, [])
        if max(abs((mp.polyval(exact[::-1], x) - value) * w) for x, value, w in values) < mp.mpf(2) ** -(bits + slack):
            break
    found: list[Any] = []
    if split:
        parts = [rounded(exact[0], bits)]
        parts.append(rounded(exact[0] - parts[0], bits))
        found.append(mp.mpf(parts[0]) + parts[1])
    while len(found) <= degree:
        found.append(rounded(fitted(values, degree, found)[0], bits))
    error = max(abs((mp.polyval(found[::-1], x) - value) * w) for x, value, w in values)
    print(f"  degree {degree}, error 2^{float(mp.log(error, 2)):.1f}")
    return [*parts, *found[1:]] if split else found


def odd(function: Function) -> Function:
    """(f(x) - x) / x^3 as a function of z = x^2."""

    def remainder(z: Any) -> Any:
        x = mp.sqrt(z)
        return (function(x) - x) / x**3

    return remainder


def odd_weight(function: Function) -> Function:
    """Turns an error of the remainder of `odd` into a relative error of f."""
    return lambda z: z * mp.sqrt(z) / function(mp.sqrt(z))


def scaled_tail(cdf_scale: Any, centre: Any) -> Function:
    """(u + centre) * g(u) as a function of t = (u - centre) / (u + centre), g(u) = c * exp(u^2 s^2) * erfc(u s)."""
    scale, factor = cdf_scale

    def value(t: Any) -> Any:
        u = centre * (1 + t) / (1 - t)
        return (u + centre) * factor * mp.exp((u * scale) ** 2) * mp.erfc(u * scale)

    return value


ERFC, NORMCDF = (mp.mpf(1), mp.mpf(1)), (mp.sqrt(mp.mpf(1) / 2), mp.mpf(1) / 2)
ERF_LIMIT = 3.93  # float32 results are 1 from here on
CENTRE = {"erfc": 2.0, "normcdf": 2.0}  # powers of 2: products with them are exact
NEAR = {"erfc": 0.47, "normcdf": 0.65}  # below, a series around 0 serves float64
RANGE = {"erfc": {24: 10.2, 53: 27.4}, "normcdf": {24: 14.5, 53: 38.7}}


def tail(name: str, scale: Any, bits: int) -> list[float]:
    """The slowly varying factor of erfc or normcdf; for float32 results it is computed in float64, and from 0 on."""
    centre, end = mp.mpf(CENTRE[name]), mp.mpf(RANGE[name][bits])
    start = mp.mpf(NEAR[name] if bits == 53 else 0)
    value = scaled_tail(scale, centre)
    bottom, top = (start - centre) / (start + centre), (end - centre) / (end + centre)
    slack = 4 if bits == 53 else -25
    return polynomial(value, lambda t: 1 / value(t), bottom, top, 53, slack, bits == 53)


def polynomials(bits: int) -> dict[str, list[float]]:
    """Every polynomial for a format of `bits` significant bits."""
    half_ln2 = LN2 / 2 * mp.mpf("1.0001")
    low, high = mp.sqrt(mp.mpf(1) / 2) - 1, mp.sqrt(2) - 1
    quarter = (PI / 4) ** 2 * mp.mpf("1.0001")
    odds: dict[str, tuple[Function, Any]] = {
        "SIN": (mp.sin, quarter), "ASIN": (mp.asin, 0.25), "ATAN": (mp.atan, 1), "SINH": (mp.sinh, 1),
        "ASINH": (mp.asinh, 1), "ATANH": (mp.atanh, 0.25), "TANH": (mp.tanh, 0.3025),
    }  # fmt: skip
    if bits == 24:
        odds["TAN"] = (mp.tan, quarter)
    found = {name: polynomial(odd(f), odd_weight(f), 0, end, bits) for name, (f, end) in odds.items()}
    found["EXP"] = polynomial(
        lambda r: (mp.exp(r) - 1 - r) / r**2, lambda r: r**2 / mp.exp(r), -half_ln2, half_ln2, bits
    )
    found["EXPM1"] = polynomial(lambda r: (mp.exp(r) - 1 - r) / r**2, lambda r: r**2 / mp.expm1(r), -0.5, 0.5, bits)
    found["EXP2"] = polynomial(lambda r: (mp.mpf(2) ** r - 1) / r, lambda r: r / mp.mpf(2) ** r, -0.5, 0.5, bits)
    found["ACOSH"] = polynomial(
        lambda t: (mp.acosh(1 + t) / mp.sqrt(2 * t) - 1) / t, lambda t: t * mp.sqrt(2 * t) / mp.acosh(1 + t), 0, 1, bits
    )
    found["COS"] = polynomial(
        lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, lambda z: z**2 / mp.cos(mp.sqrt(z)), 0, quarter, bits
    )
    if bits == 24:
        found["LOG"] = polynomial(
            lambda f: (mp.log1p(f) - f + f * f / 2) / f**3, lambda f: f**3 / mp.log1p(f), low, high, bits
        )
    else:
        # log(1 + f) = f - f^2/2 + s (f^2/2 + R), s = f / (2 + f): R / s^2 in powers of s^2 (fdlibm's e_log.c).
        end = (high / (2 + high)) ** 2 * mp.mpf("1.001")
        found["LOG"] = polynomial(
            lambda z: (2 * mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 2) / z, lambda z: z / 2, 0, end, bits
        )
        found["POW"] = polynomial(
            lambda z: ((2 * mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 2) / z - mp.mpf(2) / 3) / z,
            lambda z: z * z / 2,
            0,
            end,
            bits,
            15,
        )
    found["ERF"] = polynomial(
        lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1, lambda z: mp.sqrt(z) / mp.erf(mp.sqrt(z)), 0, 1, bits
    )
    if bits == 53:
        found["NORMCDF_NEAR"] = polynomial(
            lambda z: mp.erf(mp.sqrt(z / 2)) / mp.sqrt(4 * z), lambda z: 4 * mp.sqrt(z), 0, NEAR["normcdf"] ** 2, bits
        )
    if bits == 24:
        found["ERFC_LOG2"] = polynomial(lambda u: mp.log(mp.erfc(u), 2), lambda u: mp.erfc(u) * LN2, 1, ERF_LIMIT, bits)
    for name, scale in (("ERFC", ERFC), ("NORMCDF", NORMCDF)):
        found[name] = tail(name.lower(), scale, bits)
    return found


def main() -> None:
    """Write the coefficient file."""
    text = ['"""Coefficients, constant term first; written by compiler/mathlib/derive.py."""\n\n# fmt: off\n']
    for bits in (24, 53):
        for name, coefficients in polynomials(bits).items():
            print(f"{name}{bits}: degree {len(coefficients) - 1}")
            rows = [", ".join(map(repr, coefficients[i : i + 4])) for i in range(0, len(coefficients), 4)]
            text.append(f"{name}_{bits} = (\n" + "".join(f"    {row},\n" for row in rows) + ")\n")
    for name, values in (("TAIL_CENTRE", CENTRE), ("TAIL_START", NEAR), ("TAIL_LIMIT", RANGE)):
        text.append(f"{name} = {values}\n")
    text.append(f"ERF_LIMIT_24 = {ERF_LIMIT}\n")
    Path(__file__).with_name("coefficients.py").write_text("".join(text))


if __name__ == "__main__":
    main()
