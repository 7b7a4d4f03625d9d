"""The process's thread team: started when a program first wants it, rebuilt after fork, stopped and joined at exit."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
import time
from contextlib import suppress

import numpy as np

from backends.native.executor import executor
from backends.native.jit import never_freed
from backends.native.memory import aligned_empty
from backends.native.records import TEAM, WORKER
from backends.native.target import host
from backends.native.worker import CPU_SET_WORDS

MOST_THREADS = 1024
STOP_SECONDS = 1.0  # how long stopping waits for a run in progress
# Signals a thread raises by what it executes: blocked they would end the process before any handler could say why.
_OWN_SIGNALS = {signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
_ENVIRONMENT_WORDS = 64  # more than any C library's fenv_t


class Team:
    """Worker threads that run in native code only. `address` is the TEAM record, zero workers until `ensure`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._record = aligned_empty(8 * TEAM.words).view(np.int64)
        self._records = aligned_empty(8 * WORKER.words * MOST_THREADS).view(np.int64)
        self._environment = np.zeros(_ENVIRONMENT_WORDS, np.int64)
        self._masks = np.zeros((MOST_THREADS + 1, CPU_SET_WORDS), np.int64)
        self._threads: list[ctypes.c_ulong] = []
        self.address = self._record.ctypes.data
        self._reset()

    def _reset(self) -> None:
        self._record[:] = 0
        self._threads = []
        TEAM.write(self._record, 0, records=self._records.ctypes.data, environment=self._environment.ctypes.data)

    @property
    def workers(self) -> int:
        """Worker threads there are now."""
        return TEAM.read(self._record, "workers")

    def ensure(self, threads: int) -> None:
        """See to it that a run can use `threads` threads, its caller included. Where this system cannot (no futex,
        no more threads) the team stays smaller, and programs run on fewer threads."""
        if self.workers >= threads - 1 or not host().futex_call:
            return
        with self._lock:
            while self.workers < min(threads, MOST_THREADS) - 1:
                if not self._start(self.workers):
                    return
                TEAM.write(self._record, 0, workers=self.workers + 1)

    def _start(self, index: int) -> bool:
        self._masks[0] = _affinity()
        at, address = index * WORKER.words, self._records.ctypes.data
        row = self._masks.ctypes.data
        self._records[at : at + WORKER.words] = 0
        WORKER.write(
            self._records, at, number=index + 1, team=self.address,
            allowed=row, mask=row + (index + 1) * CPU_SET_WORDS * 8,
        )  # fmt: skip
        thread = ctypes.c_ulong()
        old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _OWN_SIGNALS)
        try:
            failed = ctypes.CDLL(None).pthread_create(
                ctypes.byref(thread), None, ctypes.c_void_p(executor().worker_address),
                ctypes.c_void_p(address + 8 * at),
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        if failed:
            return False
        WORKER.write(self._records, at, thread=thread.value)
        self._threads.append(thread)
        return True

    def stop(self) -> None:
        """End and join all workers. A run in progress finishes first, or (if it takes long) on its own thread."""
        with self._lock:
            idle = self._wait_until_idle() if self._threads else False
            TEAM.write(self._record, 0, workers=0, stop=1)
            libc = ctypes.CDLL(None)
            for index, thread in enumerate(self._threads):
                parked = self._records.ctypes.data + 8 * index * WORKER.words
                # The wake may come between the worker's last look at `stop` and its sleep: its value check covers that.
                self._records[index * WORKER.words + WORKER.index["parked"]] = 0
                libc.syscall(host().futex_call, ctypes.c_void_p(parked), 129, 1, None, None, 0)
                libc.pthread_join(thread, None)
            self._threads = []
            TEAM.write(self._record, 0, stop=0)
            if idle:
                TEAM.write(self._record, 0, lock=0)

    def _wait_until_idle(self) -> bool:
        """Take the team's lock, so that no run can use it; says whether that worked in time."""
        patience = time.monotonic() + STOP_SECONDS
        while executor().acquire(self.address + 8 * TEAM.index["lock"]) != 0:
            if time.monotonic() > patience:
                return False
            time.sleep(0.0005)
        return True

    def forget(self) -> None:
        """After fork: no worker lives in the child, and nobody there holds a lock."""
        self._lock = threading.Lock()
        self._reset()


def _affinity() -> np.ndarray:
    mask = np.zeros(CPU_SET_WORDS, np.uint64)
    with suppress(AttributeError):  # systems without affinity
        for cpu in os.sched_getaffinity(0):
            if cpu < 64 * CPU_SET_WORDS:
                mask[cpu // 64] |= np.uint64(1) << np.uint64(cpu % 64)
    return mask.view(np.int64)


team = never_freed(Team())
atexit.register(team.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.forget)
