"""Arenas: memory for temporaries and scratch, each used by one call at a time, from a bounded pool."""

from __future__ import annotations

import threading

import numpy as np

from backends.native.executor import Executor
from backends.native.memory import aligned_empty
from backends.native.records import ARENA

KEPT = 4  # arenas kept for concurrent calls; more are let go after use


class Arena:
    """An ARENA record and the memory it describes. `address` is the record's."""

    def __init__(self, size: int = 0) -> None:
        self.record = ARENA.new()
        self.address = self.record.ctypes.data
        self.grow(size)

    def grow(self, size: int) -> None:
        """Replace the memory by at least `size` bytes. Only for the holder of the arena, or before anyone has it."""
        self.memory: np.ndarray = aligned_empty(size)
        ARENA.write(self.record, 0, base=self.memory.ctypes.data, bytes=size)


class ArenaPool:
    """The arenas of one program. `main` never changes address, so native code may hold it."""

    def __init__(self) -> None:
        self.main = Arena()
        self._arenas = [self.main]
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(arena.memory.nbytes for arena in self._arenas)

    def grow(self, arena: Arena, size: int, executor: Executor) -> None:
        """Make an arena large enough; if somebody runs in it now, leave it to the next try."""
        with self._lock:
            if ARENA.read(arena.record, "bytes") < size and executor.acquire(arena.address) == 0:
                arena.grow(size)
                ARENA.write(arena.record, 0, busy=0)

    def arenas(self) -> list[Arena]:
        """The arenas there are, in the order to try them."""
        with self._lock:
            return list(self._arenas)

    def another(self, size: int) -> Arena:
        """A new arena, for when all are busy."""
        arena = Arena(size)
        with self._lock:
            if len(self._arenas) < KEPT:
                self._arenas.append(arena)
        return arena
