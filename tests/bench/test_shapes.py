"""Names of shapes on the command line."""

from __future__ import annotations

import pytest

from bench.shapes import SETS, Shape, parse


def test_sets_and_sizes_mix_and_come_once() -> None:
    assert parse("3x5x7,squares,16x16x16,3x5x7") == (Shape(3, 5, 7), *SETS["squares"])
    assert parse("128x768x3072") == (Shape(m=128, n=768, k=3072),)


def test_all_is_every_set() -> None:
    everything = parse("all")
    assert len(everything) == len(set(everything))
    assert set(everything) == {shape for shapes in SETS.values() for shape in shapes}


@pytest.mark.parametrize("text", ["", "square", "16x16", "16x0x16", "16x16x16x16", "squares,,bert", "axbxc"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no shape"):
        parse(text)


def test_what_the_sets_are_of() -> None:
    assert all(shape.is_gemv for shape in SETS["gemv"])
    assert {shape.m for shape in SETS["gemv"]} == {1, 2, 3, 4, 5, 6, 7, 8}
    primes = {size for shape in SETS["primes"] for size in (shape.m, shape.n, shape.k)}
    assert all(size % divisor for size in primes for divisor in range(2, int(size**0.5) + 1))
    assert [shape.m for shape in SETS["squares"]] == [2**i for i in range(4, 13)]
