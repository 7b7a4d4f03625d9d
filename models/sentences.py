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
def pairs() -> tuple[tuple[str, str], ...]:
    """100 pairs of neighbouring sentences, each from another docstring, all different: the two of a pair are about the
    same thing, those of different pairs mostly are not. Decided by the Python version alone."""
    found: dict[str, str] = {}
    for text in docstrings():
        pair = _neighbours(text)
        if pair is not None and not set(pair) & {*found, *found.values()}:
            found[pair[0]] = pair[1]
    listed = tuple(found.items())
    return tuple(listed[i * len(listed) // PAIRS] for i in range(PAIRS))


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
