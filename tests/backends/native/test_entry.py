"""The native entry: same results as Python's path, its own outputs, and Python for everything unusual."""

from __future__ import annotations

import _thread
import gc
import operator
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from backends.native import entry as entries
from backends.native.records import KNOWN_PLANS
from tests.backends.native.programs import TestKernel, executable, program

TWO = np.array([2.0])


class Caller:
    """A program with its entry; `slow` counts the calls that came to Python."""

    def __init__(self, steps: int = 2, threads: int = 1, **kernel: Any) -> None:
        self.run = executable(program(steps=steps), TestKernel(**kernel), threads=threads)
        self.slow = 0
        self.call = self.run.entry(self._fallback)

    def _fallback(self, *args: Any, **named: Any) -> tuple[np.ndarray, ...]:
        self.slow += 1
        if named or len(args) != 2:
            raise TypeError("not these arguments")
        return tuple(self.run.run([np.ascontiguousarray(a, np.float64) for a in args]))


def test_the_layout_of_this_interpreter_is_known() -> None:
    assert entries.layout_is_known()


def test_known_shapes_stay_native() -> None:
    caller = Caller()
    for _ in range(10):
        for length in range(KNOWN_PLANS):
            x = np.arange(length, dtype=np.float64)
            (y,) = caller.call(x, TWO)
            assert type(y) is np.ndarray
            assert y.dtype == np.float64
            assert y.flags.owndata
            assert y.flags.writeable
            assert np.array_equal(y, 4 * x)
    assert caller.slow == KNOWN_PLANS
    assert [row.runs for row in caller.run.rows()] == [10 * KNOWN_PLANS] * 2


@pytest.mark.parametrize(
    "unusual",
    [
        np.arange(8.0)[::2], np.arange(4.0)[::-1], np.arange(4, dtype=np.float32), np.arange(4, dtype=">f8"),
        np.arange(4), [0.0, 1.0, 2.0, 3.0], np.arange(5.0)[1:].view(np.matrix).A1[::-1],
        np.zeros(33, np.uint8)[1:].view(np.float64), np.ma.array(np.arange(4.0)),
    ],
)  # fmt: skip
def test_unusual_inputs_go_to_python(unusual: Any) -> None:
    caller = Caller()
    caller.call(np.arange(4.0), TWO)
    (y,) = caller.call(unusual, TWO)
    assert caller.slow == 2
    assert np.array_equal(y, 4 * np.asarray(unusual, np.float64))


def test_read_only_and_big_alignment_stay_native() -> None:
    caller = Caller()
    caller.call(np.arange(4.0), TWO)
    x = np.arange(4.0)
    x.flags.writeable = False
    assert np.array_equal(caller.call(x, TWO)[0], 4 * x)
    assert caller.slow == 1


def test_wrong_calls_raise_what_python_raises() -> None:
    caller = Caller()
    x = np.arange(4.0)
    caller.call(x, TWO)
    for args, named in (((), {}), ((x,), {}), ((x, TWO, TWO), {}), ((x,), {"f": TWO})):
        with pytest.raises(TypeError, match="not these arguments"):
            caller.call(*args, **named)
    assert np.array_equal(caller.call(x, TWO)[0], 4 * x)


def test_outputs_never_alias() -> None:
    caller = Caller()
    x = np.arange(4.0)
    results = [caller.call(x, TWO)[0] for _ in range(20)]
    for i, a in enumerate(results):
        assert not np.may_share_memory(a, x)
        a[:] = i
    assert [a[0] for a in results] == list(range(20))


def test_nothing_leaks() -> None:
    caller = Caller()
    x = np.arange(4.0)
    caller.call(x, TWO)
    before = sys.getrefcount(x), sys.getrefcount(x.dtype), sys.getrefcount(TWO)
    for _ in range(100):
        caller.call(x, TWO)
    (y,) = caller.call(x, TWO)
    assert sys.getrefcount(y) == 2
    after = sys.getrefcount(x), sys.getrefcount(x.dtype), sys.getrefcount(TWO)
    assert abs(after[1] - before[1]) <= 2
    assert after[::2] == before[::2]


def test_programs_are_collected() -> None:
    caller = Caller()
    caller.call(np.arange(4.0), TWO)
    watched = weakref.ref(caller.run)
    call = caller.call
    del caller
    gc.collect()
    assert np.array_equal(call(np.arange(4.0), TWO)[0], 4 * np.arange(4.0))  # the builtin keeps what it needs
    del call
    gc.collect()
    assert watched() is None


def test_a_failing_kernel_raises_through_the_entry() -> None:
    caller = Caller(fails_at=2)
    caller.call(np.arange(2.0), TWO)
    with pytest.raises(IndexError, match="node0"):
        caller.call(np.arange(3.0), TWO)
    assert np.array_equal(caller.call(np.arange(2.0), TWO)[0], [0.0, 4.0])


def test_threads_through_the_entry() -> None:
    caller = Caller(threads=2, spins=20_000)
    x = np.arange(100, dtype=np.float64)
    for _ in range(20):
        assert np.array_equal(caller.call(x, TWO)[0], 4 * x)
    assert caller.slow <= 2  # the second time to start the team


def test_no_entry_on_an_unknown_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "layout_is_known", lambda: False)
    caller = Caller()
    x = np.arange(4.0)
    assert np.array_equal(caller.call(x, TWO)[0], 4 * x)
    assert np.array_equal(caller.call(x, TWO)[0], 4 * x)
    assert caller.slow == 2


def test_plans_may_be_forgotten_while_they_run() -> None:
    caller = Caller(spins=20_000)
    failures: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for length in rng.integers(0, 400, 40):  # up to some milliseconds: the GIL is released
            x = np.arange(length, dtype=np.float64)
            for _ in range(3):
                if not np.array_equal(caller.call(x, TWO)[0], 4 * x):
                    failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert caller.run.statistics().plans <= 8
    assert [row.runs for row in caller.run.rows()] == [4 * 40 * 3] * 2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as an interactive Python has it: jobs in the background inherit "ignored"."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_waits_when_a_long_run_begins() -> None:
    caller = Caller(spins=200_000)
    x = np.arange(100, dtype=np.float64)
    for _ in range(2):
        caller.call(x, TWO)
    with pytest.raises(KeyboardInterrupt):  # map and partial execute no bytecode that would look for signals
        list(map(operator.call, [_thread.interrupt_main, partial(caller.call, x, TWO)]))
    assert np.array_equal(caller.call(x, TWO)[0], 4 * x)
