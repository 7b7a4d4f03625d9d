"""Choices that tuning made, remembered on disk for a machine: one entry of the object cache, so checksummed, written by
atomic rename and bounded in size. Contents of another form count as nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from backends.native.cache import ObjectCache, object_key
from backends.native.target import Target

FORMAT = 1
MOST = 4096  # choices kept for a machine; the oldest go
UNTUNED: tuple[int, ...] = ()


class Choices:
    """Choices, as numbers, by question; UNTUNED where nothing better was found. Several threads may use one. Another
    target, other sources of the generator or another format have entries of their own (`object_key`)."""

    def __init__(self, target: Target, cache: ObjectCache | None) -> None:
        self._target, self._cache, self._lock = target, cache, threading.Lock()
        self._known: dict[str, tuple[int, ...]] | None = None

    def known(self) -> Mapping[str, tuple[int, ...]]:
        """All there are: read once from the cache, then those made by this object as well."""
        with self._lock:
            if self._known is None:
                self._known = self._read()
            return self._known

    def add(self, made: Mapping[str, tuple[int, ...]]) -> None:
        """Remember choices, in the cache too, beside what other processes have written there since. (Of two that write
        in the same instant, one has to measure again some time.)"""
        if not made:
            return
        with self._lock:
            kept = {**self._read(), **(self._known or {}), **made}
            self._known = dict(list(kept.items())[-MOST:])
            if self._cache is not None:
                self._cache.put([(self._key, json.dumps(self._known).encode())])

    @property
    def _key(self) -> str:
        return object_key(self._target, "choices", str(FORMAT))

    def _read(self) -> dict[str, tuple[int, ...]]:
        content = self._cache.get(self._key) if self._cache is not None else None
        try:
            found = json.loads(content or b"{}")
        except ValueError:
            return {}
        if not isinstance(found, dict):
            return {}
        return {question: tuple(words) for question, words in found.items() if _is_numbers(words)}


def _is_numbers(words: object) -> bool:
    return isinstance(words, list) and all(type(word) is int and word >= 0 for word in words)
