"""Symbolic sizes: an extent is an `int` or a `Dim`, a canonical integer polynomial over named sizes.

Canonical form makes "same expression" plain equality, so `batch*seq == seq*batch` and a reshape whose sizes
cancel is recognised without a solver. What is no polynomial (floor division, min, max, modulo) becomes an atom
named by its own text. Arithmetic that turns out constant yields `int`. NumPy object arrays of `int | Dim` work
with ordinary NumPy functions, which is how integer shape chains are evaluated symbolically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

Size = Union[int, "Dim"]
_Monomial = tuple["Atom", ...]


@dataclass(frozen=True)
class Atom:
    """A named size, or a function of sizes that is no polynomial. `code` is the Python text that evaluates it."""

    code: str
    names: frozenset[str]

    def __lt__(self, other: Atom) -> bool:
        return self.code < other.code


class Dim:
    """An immutable polynomial: a sorted tuple of (monomial, coefficient). Named sizes are never negative."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[_Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    @property
    def names(self) -> frozenset[str]:
        """The named sizes this one depends on."""
        return frozenset(name for monomial, _ in self.terms for atom in monomial for name in atom.names)

    @property
    def is_symbol(self) -> bool:
        """Whether this is one bare named size."""
        return str(self).isidentifier()

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The number this stands for under `sizes` (every name in `names` must be there, else KeyError)."""
        return _compiled(str(self))(sizes)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Dim) and self.terms == other.terms)

    def __str__(self) -> str:
        parts = []
        for monomial, coefficient in self.terms:
            factors = [atom.code for atom in monomial]
            if coefficient != 1 or not factors:
                factors.insert(0, str(coefficient))
            parts.append("*".join(factors))
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__

    def __add__(self, other: Size) -> Size:
        return _combine(self, other, 1)

    def __radd__(self, other: Size) -> Size:
        return _combine(self, other, 1)

    def __sub__(self, other: Size) -> Size:
        return _combine(self, other, -1)

    def __rsub__(self, other: Size) -> Size:
        return _combine(-self, other, 1)

    def __neg__(self) -> Size:
        return self * -1

    def __mul__(self, other: Size) -> Size:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        total: dict[_Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                monomial = tuple(sorted(left + right))
                total[monomial] = total.get(monomial, 0) + a * b
        return _make(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        exact = divide_exactly(self, other)
        return exact if exact is not None else _atom("({} // {})", self, other)

    def __rfloordiv__(self, other: int) -> Size:
        return _atom("({} // {})", other, self)

    def __truediv__(self, other: Size) -> Size:
        return self // other

    def __mod__(self, other: Size) -> Size:
        return 0 if divide_exactly(self, other) is not None else _atom("({} % {})", self, other)

    def __lt__(self, other: Size) -> bool:
        return _positive(other - self)

    def __le__(self, other: Size) -> bool:
        return not _positive(self - other)

    def __gt__(self, other: Size) -> bool:
        return _positive(self - other)

    def __ge__(self, other: Size) -> bool:
        return not _positive(other - self)


class Undecided(Exception):
    """A comparison of symbolic sizes whose answer depends on the sizes."""


def symbol(name: str) -> Dim:
    """A named size. `name` must be an identifier."""
    if not name.isidentifier():
        raise ValueError(f"a size is named by an identifier, not {name!r}")
    return Dim((((Atom(name, frozenset((name,))),), 1),))


def minimum(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else a if a == b else _atom("min({}, {})", a, b)


def maximum(a: Size, b: Size) -> Size:
    """The larger of two sizes; a constant no larger than zero never wins against a named size."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if a == b:
        return a
    for small, large in ((a, b), (b, a)):
        if isinstance(small, int) and small <= 0 and isinstance(large, Dim) and large.is_symbol:
            return large
    return _atom("max({}, {})", a, b)


def ceil_div(a: Size, b: int) -> Size:
    """a / b rounded up."""
    return -(-a // b) if isinstance(a, int) else (a + (b - 1)) // b


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes, 1 for none."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def divide_exactly(a: Size, b: Size) -> Size | None:
    """a / b where every term of `a` is divisible by the single term of `b`; None where that cannot be seen."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if a == b:
        return 1
    divisor = _terms(b)
    if len(divisor) != 1 or divisor[0][1] == 0:
        return None
    monomial, coefficient = divisor[0]
    quotient: dict[_Monomial, int] = {}
    for term, factor in _terms(a):
        rest = list(term)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if factor % coefficient:
            return None
        quotient[tuple(rest)] = factor // coefficient
    return _make(quotient)


def equal(a: Size, b: Size) -> bool:
    """Whether two sizes are the same number for every value of the names; raises Undecided where it depends."""
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    low, high = _bounds(difference)
    if low > 0 or high < 0:
        return False
    raise Undecided(f"whether {a} equals {b} depends on the sizes")


def evaluate(size: Size, sizes: Mapping[str, int]) -> int:
    """The number `size` stands for under the named `sizes`."""
    return size if isinstance(size, int) else size.evaluate(sizes)


def is_static(shape: Iterable[Size]) -> bool:
    """Whether no size in `shape` is symbolic."""
    return all(isinstance(size, int) for size in shape)


def _terms(size: Size) -> tuple[tuple[_Monomial, int], ...]:
    return size.terms if isinstance(size, Dim) else (((), int(size)),)


def _make(total: Mapping[_Monomial, int]) -> Size:
    kept = tuple(sorted((monomial, factor) for monomial, factor in total.items() if factor))
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Dim(kept)


def _combine(a: Size, b: Size, sign: int) -> Size:
    if not isinstance(b, Dim) and not hasattr(b, "__index__"):
        return NotImplemented
    total = dict(_terms(a))
    for monomial, factor in _terms(b):
        total[monomial] = total.get(monomial, 0) + sign * factor
    return _make(total)


def _atom(template: str, a: Size, b: Size) -> Size:
    code = template.format(*(f"({x})" if isinstance(x, Dim) and not x.is_symbol else x for x in (a, b)))
    names = frozenset().union(*(x.names for x in (a, b) if isinstance(x, Dim)))
    return Dim((((Atom(code, names),), 1),))


def _bounds(size: Size) -> tuple[float, float]:
    """The least and greatest value of `size`, every atom being at least zero."""
    terms = _terms(size)
    constant = sum(factor for monomial, factor in terms if not monomial)
    factors = [factor for monomial, factor in terms if monomial]
    low = constant if all(factor > 0 for factor in factors) else float("-inf")
    high = constant if all(factor < 0 for factor in factors) else float("inf")
    return low, high


def _positive(size: Size) -> bool:
    low, high = _bounds(size)
    if low > 0 or high <= 0:
        return low > 0
    raise Undecided(f"whether {size} is above zero depends on the sizes")


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Callable[[Mapping[str, int]], int]:
    # The text is built from identifiers, integers and + - * // % min max only, by this module alone.
    code = compile(text, "<size>", "eval")
    return lambda sizes: eval(code, {"__builtins__": {}, "min": min, "max": max}, sizes)
