"""200 English sentences for measuring a sentence encoder, taken from Python's own documentation strings."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

from models.docstrings import docstrings

# Words and plain punctuation only: what holds code is no sentence.
SENTENCE = re.compile(r"[A-Z][A-Za-z',;:-]*( [A-Za-z',;:-]+){5,24}\.")
PAIRS = 100


@cache
def all_pairs() -> tuple[tuple[str, str], ...]:
    """Two neighbouring sentences of every docstring that has such, all different. Decided by the Python version."""
    found: dict[str, str] = {}
    for text in docstrings():
        pair = _neighbours(text)
        if pair is not None and not set(pair) & {*found, *found.values()}:
            found[pair[0]] = pair[1]
    return tuple(found.items())


def pairs() -> tuple[tuple[str, str], ...]:
    """100 of all pairs, evenly spaced: the two of a pair are about the same thing, those of different pairs mostly are
    not."""
    every = all_pairs()
    return tuple(every[i * len(every) // PAIRS] for i in range(PAIRS))


def others() -> tuple[str, ...]:
    """The sentences of all other pairs, some 350: what to calibrate with before measuring on `sentences()`."""
    chosen = set(pairs())
    return tuple(sentence for pair in all_pairs() if pair not in chosen for sentence in pair)


def sentences() -> tuple[str, ...]:
    """The 200 sentences: sentence 2i and sentence 2i+1 are a pair."""
    return tuple(sentence for pair in pairs() for sentence in pair)


def _neighbours(text: str) -> tuple[str, str] | None:
    """The first two sentences of a docstring that follow one another in a paragraph."""
    for paragraph in re.split(r"\n\s*\n", text):
        parts = re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split()))
        for first, second in pairwise(parts):
            if SENTENCE.fullmatch(first) and SENTENCE.fullmatch(second):
                return first, second
    return None
