"""Sizes against plain integers: whatever is computed with names means the same as with numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler import dims
from compiler.dims import Dim, Size, Undecided, symbol

SIZES = st.fixed_dictionaries({name: st.integers(0, 9) for name in ("n", "m", "k")})
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": dims.minimum,
    "max": dims.maximum,
}
COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, dims.equal)
LEAVES = st.one_of(st.integers(-4, 4), st.sampled_from([symbol(name) for name in ("n", "m", "k")]))


def combine(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.sampled_from(sorted(OPERATORS)), children, children)


TREES = st.recursive(LEAVES, combine, max_leaves=6)


def symbolic(tree: Any) -> Size:
    if not isinstance(tree, tuple):
        return tree
    try:
        return OPERATORS[tree[0]](symbolic(tree[1]), symbolic(tree[2]))
    except ZeroDivisionError:
        assume(False)
        raise


def numeric(tree: Any, sizes: dict[str, int]) -> int:
    if not isinstance(tree, tuple):
        return dims.evaluate(tree, sizes)
    a, b = numeric(tree[1], sizes), numeric(tree[2], sizes)
    if tree[0] in ("//", "%"):
        assume(b != 0)
    return OPERATORS[tree[0]](a, b)


@settings(max_examples=400, deadline=None)
@given(TREES, SIZES)
def test_arithmetic_means_what_it_says(tree: Any, sizes: dict[str, int]) -> None:
    expected = numeric(tree, sizes)
    size = symbolic(tree)
    assert dims.evaluate(size, sizes) == expected
    assert eval(str(size), {}, dict(sizes)) == expected  # the text is how plans evaluate sizes
    if isinstance(size, Dim):
        assert size.names <= sizes.keys()
        assert dims.evaluate(size + 0, sizes) == expected and size - size == 0 and size == size * 1


@settings(max_examples=600, deadline=None)
@given(TREES, TREES, st.sampled_from(COMPARISONS), SIZES)
def test_comparisons_never_lie(
    left: Any, right: Any, compare: Callable[[Any, Any], bool], sizes: dict[str, int]
) -> None:
    a, b = numeric(left, sizes), numeric(right, sizes)
    try:
        answer = compare(symbolic(left), symbolic(right))
    except Undecided:
        return
    assert answer == compare(a, b)


@settings(max_examples=300, deadline=None)
@given(TREES, TREES, SIZES)
def test_an_exact_quotient_is_exact(left: Any, right: Any, sizes: dict[str, int]) -> None:
    a, b = symbolic(left), symbolic(right)
    found, divisor = dims.divide_exactly(a, b), numeric(right, sizes)
    assume(divisor != 0 and numeric(left, sizes) is not None)
    if found is not None:
        assert dims.evaluate(found, sizes) * divisor == dims.evaluate(a, sizes)


@settings(max_examples=200, deadline=None)
@given(TREES, st.integers(1, 5), SIZES)
def test_rounding_up(tree: Any, divisor: int, sizes: dict[str, int]) -> None:
    number = numeric(tree, sizes)
    assert dims.evaluate(dims.ceil_div(symbolic(tree), divisor), sizes) == -(-number // divisor)


def test_order_does_not_matter() -> None:
    n, m = symbol("n"), symbol("m")
    assert n * m == m * n and hash(n * m) == hash(m * n)
    assert (n + 1) * (n - 1) == n * n - 1
    assert (n * 12 * m) // (m * 4) == n * 3
    assert str(n - m * 2 + 3) == str(3 - 2 * m + n)
    assert dims.equal(n + 1, n) is False


def test_what_the_sizes_decide_is_undecided() -> None:
    n, m = symbol("n"), symbol("m")
    for ask in (lambda: n < 3, lambda: n > m, lambda: dims.equal(n, m), lambda: n > 0, lambda: bool(n)):
        with pytest.raises(Undecided):
            ask()
    assert n >= 0 and n + 1 > 0 and -n <= 0 and bool(n + 1)
    assert dims.maximum(n, 0) == n


def test_arrays_of_sizes_work_as_numbers_do() -> None:
    shape = np.array([symbol("n"), 3, symbol("m")], object)
    assert np.prod(shape) == symbol("n") * symbol("m") * 3
    assert (shape * np.int64(2)).tolist() == [symbol("n") * 2, 6, symbol("m") * 2]
    assert (np.array([7, 8]) - shape[:1]).tolist() == [7 - symbol("n"), 8 - symbol("n")]
    assert (np.array([7], object) % shape[:1])[0].evaluate({"n": 4}) == 3


@pytest.mark.parametrize("name", ["batch size", "min", "max", "lambda", "in", "3d", ""])
def test_names_mean_nothing_else(name: str) -> None:
    assert not dims.is_name(name)
    with pytest.raises(ValueError, match="identifier"):
        symbol(name)


def test_nothing_is_divided_by_zero() -> None:
    for divide in (operator.floordiv, operator.mod):
        with pytest.raises(ZeroDivisionError):
            divide(symbol("n"), 0)
