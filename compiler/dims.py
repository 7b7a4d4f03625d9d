"""Symbolic sizes: an extent is an `int` or a `Dim`, a canonical integer polynomial over named sizes.

Canonical form makes "same expression" plain equality, so `batch*seq == seq*batch` and a reshape whose sizes
cancel is recognised without a solver. What is no polynomial (floor division, min, max, modulo) becomes an atom
named by its own text. Arithmetic that turns out constant yields `int`. NumPy object arrays of `int | Dim` work
with ordinary NumPy functions, which is how integer shape chains are evaluated symbolically.
"""

from __future__ import annotations

import keyword
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from types import CodeType
from typing import Any, Union

from compiler import intervals
from compiler.intervals import Bounds

Size = Union[int, "Dim"]
_Monomial = tuple["Atom", ...]


@dataclass(frozen=True)
class Atom:
    """A named size, or a function of sizes that is no polynomial. `code` is the Python text that evaluates it; its
    value lies between `low` and `high`."""

    code: str
    names: frozenset[str]
    low: float = field(compare=False)
    high: float = field(compare=False)

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
        return exact if exact is not None else _atom("({} // {})", self, other, intervals.quotient)

    def __rfloordiv__(self, other: int) -> Size:
        return _atom("({} // {})", other, self, intervals.quotient)

    def __mod__(self, other: Size) -> Size:
        return 0 if divide_exactly(self, other) is not None else _atom("({} % {})", self, other, intervals.remainder)

    def __rmod__(self, other: int) -> Size:
        return _atom("({} % {})", other, self, intervals.remainder)

    def __bool__(self) -> bool:
        return not equal(self, 0)

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


def is_name(text: str) -> bool:
    """Whether a size can be called `text`: an identifier that means nothing else in the text of sizes."""
    return text.isidentifier() and not keyword.iskeyword(text) and text not in ("min", "max")


def symbol(name: str) -> Dim:
    """A named size; see is_name."""
    if not is_name(name):
        raise ValueError(f"a size is named by an identifier that is no word of Python's, not {name!r}")
    return Dim((((Atom(name, frozenset((name,)), 0, math.inf),), 1),))


def minimum(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    low, high = _bounds(a - b)
    return a if high <= 0 else b if low >= 0 else _atom("min({}, {})", a, b, intervals.pairwise(min))


def maximum(a: Size, b: Size) -> Size:
    """The larger of two sizes."""
    low, high = _bounds(a - b)
    return a if low >= 0 else b if high <= 0 else _atom("max({}, {})", a, b, intervals.pairwise(max))


def ceil_div(a: Size, b: int) -> Size:
    """a / b rounded up."""
    return -(-a // b) if isinstance(a, int) else (a + (b - 1)) // b


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes, 1 for none."""
    return reduce(operator.mul, sizes, 1)


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


def substitute(size: Size, sizes: Mapping[str, Size]) -> Size:
    """`size` with the named sizes that `sizes` knows replaced by what it says."""
    if isinstance(size, int) or not size.names & sizes.keys():
        return size
    names = {name: sizes[name] if name in sizes else symbol(name) for name in size.names}
    return eval(_code(str(size)), {"__builtins__": {}, "min": minimum, "max": maximum}, names)


def names_in(item: Any) -> frozenset[str]:
    """Every named size an attribute mentions: in sizes, and in tuples, mappings and object arrays of them."""
    if isinstance(item, Dim):
        return item.names
    if isinstance(item, Mapping):
        item = tuple(item.values())
    if hasattr(item, "flat"):
        item = tuple(item.flat) if item.dtype == object else ()
    return frozenset().union(*map(names_in, item)) if isinstance(item, tuple) else frozenset()


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


def _atom(template: str, a: Size, b: Size, bounds: Callable[[Bounds, Bounds], Bounds]) -> Size:
    code = template.format(*(f"({x})" if isinstance(x, Dim) and not x.is_symbol else x for x in (a, b)))
    names = frozenset().union(*(x.names for x in (a, b) if isinstance(x, Dim)))
    return Dim((((Atom(code, names, *bounds(_bounds(a), _bounds(b))),), 1),))


def _bounds(size: Size) -> Bounds:
    """Numbers that `size` is never less or greater than."""
    low: float = 0
    high: float = 0
    for monomial, factor in _terms(size):
        a, b = _monomial_bounds(monomial)
        low, high = low + factor * (a if factor > 0 else b), high + factor * (b if factor > 0 else a)
    return low, high


def _monomial_bounds(monomial: _Monomial) -> Bounds:
    if len(monomial) == 1:
        return monomial[0].low, monomial[0].high
    if any(atom.low < 0 for atom in monomial):
        return -math.inf, math.inf
    highs = [atom.high for atom in monomial]
    return math.prod(atom.low for atom in monomial), 0 if 0 in highs else math.prod(highs)


def _positive(size: Size) -> bool:
    low, high = _bounds(size)
    if low > 0 or high <= 0:
        return low > 0
    raise Undecided(f"whether {size} is above zero depends on the sizes")


def _code(text: str) -> CodeType:
    # The text is built from identifiers, integers and + - * // % min max only, by this module alone.
    return compile(text, "<size>", "eval")


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Callable[[Mapping[str, int]], int]:
    code = _code(text)
    return lambda sizes: eval(code, {"__builtins__": {}, "min": min, "max": max}, sizes)
