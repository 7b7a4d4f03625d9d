"""What was used lately, bounded, for many threads."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key: the `limit` put or asked for last, and up to as many older ones.

    `young` may be read without a lock, and without a word about use: when it is full it becomes the old half, and what
    is asked for there comes back. So the fastest path of a caller is one look into a dict.
    """

    def __init__(self, limit: int) -> None:
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._limit, self._lock = limit, threading.Lock()

    def __len__(self) -> int:
        return len(self.young | self._old)

    def get(self, key: K) -> V | None:
        """The value of that key, None where there is none."""
        found = self.young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        with self._lock:
            if len(self.young) >= self._limit and key not in self.young:
                self.young, self._old = {}, self.young
            self.young[key] = value
