"""Discrete Fourier transforms as matrix products: short ones by their matrix, long ones by mixed radix.

A length with small factors is split n = f * m (Cooley and Tukey 1965): f-point transforms by a matrix, a rotation of
each element, m-point transforms in turn, so that no sum has more than a few dozen terms. A length with a large prime
factor becomes a convolution of a length without one (Bluestein 1970). Constants are exact to the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, arg
from compiler.ir import Value
from compiler.ops.elementwise import emit_map
from compiler.ops.shape import known_shape

_RADIX = 64  # longest transform done by its matrix where a shorter one would do
_LONGEST_MATRIX = 160  # longest transform of a length without small factors done by its matrix


def transform(b: Builder, x: Value, *, sign: int, scale: float, parts: int) -> Value:
    """y[.., k, :] = scale * sum over j of x[.., j, :] * exp(sign * 2 pi i j k / n), for x [.., n, c], n a number.

    c: 2 (real and imaginary part), or 1 for real x. parts: 2, or 1 where only the real part is wanted. float32 or
    float64.
    """
    n = _length(x)
    factor = _factor(n)
    if factor is not None:
        return _mixed_radix(b, x, factor, sign, scale, parts)
    if n <= _LONGEST_MATRIX:
        return _by_matrix(b, x, n, sign, scale, parts)
    return _bluestein(b, x, sign, scale, parts)


def half_spectrum(b: Builder, x: Value, *, sign: int, scale: float) -> Value:
    """`transform` of real x [.., n, 1] for k = 0 .. n // 2: the others are their conjugates."""
    n = _length(x)
    factor = _factor(n)
    if factor is not None:
        return _mixed_radix_half(b, x, factor, sign, scale)
    if n <= _LONGEST_MATRIX:
        return _by_matrix(b, x, n // 2 + 1, sign, scale, 2)
    return _cut(b, _bluestein(b, x, sign, scale, 2), -2, 0, n // 2 + 1)


def whole_spectrum(b: Builder, half: Value, n: int) -> Value:
    """All n values [.., n, 2] of a spectrum X[n - k] = conj X[k], given [.., n // 2 + 1, 2]."""
    upper = _conjugate(b, _cut(b, half, -2, (n - 1) // 2, (n - 1) // 2, step=-1))
    return b.emit("concat", half, upper, axis=-2) if n > 2 else half


def roots_of_unity(n: int, exponents: np.ndarray) -> np.ndarray:
    """exp(2 pi i e / n) as complex128 for whole numbers e, the angle reduced to an eighth of a turn exactly."""
    rest = exponents % n
    quarter = (8 * rest + n) // (2 * n)
    angle = (4 * rest - quarter * n) * (np.pi / 2 / n)
    return (np.cos(angle) + 1j * np.sin(angle)) * np.array([1, 1j, -1, -1j])[quarter % 4]


@dataclass(frozen=True)
class _Split:
    """n = radix * rest."""

    radix: int
    rest: int


def _length(x: Value) -> int:
    return _sizes(x)[1]


def _sizes(x: Value) -> tuple[tuple[Size, ...], int, int]:
    """The leading sizes, the length and the number of parts."""
    *lead, n, parts = known_shape(x)
    assert isinstance(n, int) and isinstance(parts, int), "the length of a transform is a number"
    return tuple(lead), n, parts


def _factor(n: int) -> _Split | None:
    """How a length is split; None where its matrix is as good, or it has no factor up to _RADIX."""
    if n <= _RADIX:
        return None
    radices = [f for f in range(2, _RADIX + 1) if n % f == 0]
    if not radices:
        return None
    even = [f for f in radices if n // f <= _RADIX]
    radix = min(even, key=lambda f: f + n // f) if even else radices[-1]
    return _Split(radix, n // radix)


def _table(n: int, bins: int, sign: int, scale: float, into: int, out: int) -> np.ndarray:
    """[into, n, out, bins]: what part `into` of element j adds to part `out` of result k."""
    powers = roots_of_unity(n, sign * np.outer(np.arange(n), np.arange(bins))) * scale
    rows = [[powers.real, powers.imag], [-powers.imag, powers.real]]
    return np.array([row[:out] for row in rows[:into]]).transpose(0, 2, 1, 3)


def _constant(b: Builder, array: np.ndarray, like: Value) -> Value:
    return b.constant(np.ascontiguousarray(array, like.type.dtype.numpy), "roots")


def _by_matrix(b: Builder, x: Value, bins: int, sign: int, scale: float, parts: int) -> Value:
    """The first `bins` values by one product."""
    lead, n, into = _sizes(x)
    table = _table(n, bins, sign, scale, into, parts).transpose(1, 0, 3, 2)
    matrix = _constant(b, table.reshape(n * into, bins * parts), x)
    product = b.emit("matmul", _shaped(b, x, (*lead, n * into)), matrix)
    return _shaped(b, product, (*lead, bins, parts))


def _first_stage(b: Builder, x: Value, split: _Split, bins: int, sign: int) -> Value:
    """[.., rest, 2, bins]: transforms of length `radix` over every rest-th element, rotated for what follows."""
    lead, _, into = _sizes(x)
    f, m, rank = split.radix, split.rest, len(lead)
    parted = _shaped(b, x, (*lead, f, m, into))
    turned = b.emit("transpose", parted, perm=(*range(rank), rank + 1, rank + 2, rank))
    table = _table(f, bins, sign, 1.0, into, 2).reshape(f * into, 2 * bins)
    product = b.emit("matmul", _shaped(b, turned, (*lead, m, into * f)), _constant(b, table, x))
    stage = _shaped(b, product, (*lead, m, 2, bins))
    powers = roots_of_unity(f * m, sign * np.outer(np.arange(m), np.arange(bins)))
    return _rotate(b, stage, powers[:, None, :], -2, 2)


def _mixed_radix(b: Builder, x: Value, split: _Split, sign: int, scale: float, parts: int) -> Value:
    """Element j = j1 rest + j2, result k = k1 + radix k2: over j1, then over j2."""
    lead, n, _ = _sizes(x)
    rank = len(lead)
    stage = _first_stage(b, x, split, split.radix, sign)
    inner = b.emit("transpose", stage, perm=(*range(rank), rank + 2, rank, rank + 1))
    result = transform(b, inner, sign=sign, scale=scale, parts=parts)
    turned = b.emit("transpose", result, perm=(*range(rank), rank + 1, rank, rank + 2))
    return _shaped(b, turned, (*lead, n, parts))


def _mixed_radix_half(b: Builder, x: Value, split: _Split, sign: int, scale: float) -> Value:
    """As `_mixed_radix` for k1 up to half the radix: X[radix - k1 + radix k2] = conj X[k1 + radix (rest - 1 - k2)]."""
    lead, n, _ = _sizes(x)
    rank, radix, rest = len(lead), split.radix, split.rest
    stage = _first_stage(b, x, split, radix // 2 + 1, sign)
    inner = b.emit("transpose", stage, perm=(*range(rank), rank + 2, rank, rank + 1))
    result = transform(b, inner, sign=sign, scale=scale, parts=2)
    turned = b.emit("transpose", result, perm=(*range(rank), rank + 1, rank, rank + 2))
    bins = n // 2 + 1
    rows = -(-bins // radix)
    lower = _cut(b, turned, -3, 0, rows)
    mirrored = _cut(b, turned, -3, rest - 1, rows, step=-1)
    upper = _conjugate(b, _cut(b, mirrored, -2, (radix - 1) // 2, (radix - 1) // 2, step=-1))
    joined = b.emit("concat", lower, upper, axis=-2) if radix > 2 else lower
    return _cut(b, _shaped(b, joined, (*lead, rows * radix, 2)), -2, 0, bins)


def _bluestein(b: Builder, x: Value, sign: int, scale: float, parts: int) -> Value:
    """2 j k = j^2 + k^2 - (k - j)^2 makes the sum a convolution with exp(-sign pi i j^2 / n)."""
    n = _length(x)
    place = np.arange(n)
    chirp = roots_of_unity(2 * n, sign * place * place)
    longer = _smooth(2 * n - 1)
    kernel = np.zeros(longer, complex)
    kernel[:n] = chirp.conj()
    kernel[longer - n + 1 :] = chirp[:0:-1].conj()
    rank = len(known_shape(x))
    rotated = _rotate(b, x, chirp[:, None], -1, 2)
    after = (*[0] * (rank - 2), longer - n, 0)
    padded = b.emit("pad", rotated, None, before=(0,) * rank, after=after, mode="constant")
    spectrum = transform(b, padded, sign=-1, scale=1.0, parts=2)
    product = _rotate(b, spectrum, np.fft.fft(kernel)[:, None], -1, 2)
    convolved = transform(b, product, sign=1, scale=1 / longer, parts=2)
    return _rotate(b, _cut(b, convolved, -2, 0, n), scale * chirp[:, None], -1, parts)


def _smooth(least: int) -> int:
    """The smallest number from `least` on with no prime factor above 7."""
    while True:
        rest = least
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return least
        least += 1


def _rotate(b: Builder, x: Value, factors: np.ndarray, axis: int, parts: int) -> Value:
    """x times complex factors (of extent 1 along `axis`, where x has its parts): the first `parts` of the product."""
    real = np.concatenate((factors.real, factors.imag)[:parts], axis)
    dtype = x.type.dtype
    if known_shape(x)[axis] == 1:
        return emit_map(b, arg(0, dtype) * arg(1, dtype), x, _constant(b, real, x), hint="rotated")
    imaginary = np.concatenate((-factors.imag, factors.real)[:parts], axis)
    pair = [_cut(b, x, axis, part, 1) for part in (0, 1)]
    a, c, by_a, by_c = (arg(i, dtype) for i in range(4))
    product: Expr = a * by_a + c * by_c
    return emit_map(b, product, *pair, _constant(b, real, x), _constant(b, imaginary, x), hint="rotated")


def _conjugate(b: Builder, x: Value) -> Value:
    dtype = x.type.dtype
    return emit_map(b, arg(0, dtype) * arg(1, dtype), x, _constant(b, np.array([1, -1]), x), hint="conjugate")


def _shaped(b: Builder, x: Value, shape: Sequence[Size]) -> Value:
    return b.emit("reshape", x, b.sizes(shape))


def _cut(b: Builder, x: Value, axis: int, start: int, size: Size, step: int = 1) -> Value:
    """`size` elements from `start` along an axis."""
    shape = known_shape(x)
    at = axis % len(shape)
    return b.emit(
        "slice",
        x,
        starts=tuple(start if a == at else 0 for a in range(len(shape))),
        sizes=tuple(size if a == at else extent for a, extent in enumerate(shape)),
        steps=tuple(step if a == at else 1 for a in range(len(shape))),
    )
