"""The thread team: chunks run once each on several threads, and threads survive fork, exit, signals and each other."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from backends.native import walker
from backends.native.team import team
from tests.backends.native.programs import TestKernel, executable, program

HOME = Path(__file__).parents[3]
SLOW = TestKernel(spins=20_000)  # about 10 us a chunk
TWO = np.array([2.0])


def run_script(body: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with what the scripts below share."""
    head = """
import os, signal, sys, threading, time
import numpy as np
from backends.native.team import team
from tests.backends.native.programs import TestKernel, executable, program
TWO = np.array([2.0])
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background inherit "ignored"
def slow(chunks, spins=20_000, threads=2):
    run = executable(program(chunks), TestKernel(spins=spins), threads=threads)
    x = np.arange(chunks, dtype=np.float64)
    for _ in range(2):  # the first run measures
        assert np.array_equal(run.run([x, TWO])[0], 2 * x)
    return run, x
"""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", head + body],
        capture_output=True, text=True, timeout=timeout, cwd=HOME, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 7, 61, 500])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_chunk_runs_once(chunks: int, threads: int) -> None:
    run = executable(program(chunks, steps=3), SLOW, threads=threads)
    x = np.arange(chunks, dtype=np.float64)
    for _ in range(4):
        assert np.array_equal(run.run([x, TWO])[0], 8 * x)
    assert [row.runs for row in run.rows()] == [4, 4, 4]


def test_workers_take_part() -> None:
    run = executable(program(64), TestKernel(spins=400_000, thread=True), threads=2)
    x = np.zeros(64)
    seen = {worker for _ in range(20) for worker in run.run([x, TWO])[0]}
    assert len(seen) == 2


def test_small_programs_stay_on_their_thread() -> None:
    run = executable(program(4), TestKernel(thread=True), threads=2)
    x = np.zeros(4)
    for _ in range(walker.MEASURED_RUNS):
        run.run([x, TWO])
    assert {worker for _ in range(50) for worker in run.run([x, TWO])[0]} == {run.run([x, TWO])[0][0]}


def test_workers_round_as_the_caller_does() -> None:
    libm = ctypes.CDLL(None)
    upward = {"x86_64": 0x800, "aarch64": 0x400000}[platform.machine()]  # FE_UPWARD
    x, third = np.full(64, 1.0), np.array([1.0 / 3])
    values = np.nextafter(x, 2) * 3
    run = executable(program(64), TestKernel(spins=400_000), threads=2)
    expected = []
    for mode in (0, upward):
        before = libm.fegetround()
        libm.fesetround(mode)
        try:
            results = [run.run([values, third])[0] for _ in range(10)]
        finally:
            libm.fesetround(before)
        assert all(len(set(result)) == 1 for result in results)
        expected.append(results[0][0])
    assert expected[0] != expected[1]  # the mode does reach the kernels


def test_concurrent_calls() -> None:
    run = executable(program(200, steps=2), SLOW, threads=2)
    failures = []

    def work(seed: int) -> None:
        x = np.arange(200, dtype=np.float64) + seed
        for _ in range(10):
            if not np.array_equal(run.run([x, TWO])[0], 4 * x):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [row.runs for row in run.rows()] == [50, 50]


def test_stop_and_start_again() -> None:
    run = executable(program(100), SLOW, threads=2)
    x = np.arange(100, dtype=np.float64)
    for _ in range(3):
        run.run([x, TWO])
        assert team.workers >= 1
        team.stop()
        assert team.workers == 0
    assert np.array_equal(run.run([x, TWO])[0], 2 * x)


def test_exit_while_workers_spin() -> None:
    done = run_script("run, x = slow(200)\nrun.run([x, TWO])\nassert team.workers == 1\nprint('ran')")
    assert (done.returncode, done.stdout.strip()) == (0, "ran"), done.stderr


def test_exit_with_a_run_in_another_thread() -> None:
    done = run_script("""
run, x = slow(200)
def forever():
    while True:
        run.run([x, TWO])
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
print('ran')
""")
    assert (done.returncode, done.stdout.strip()) == (0, "ran"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_gets_a_team_of_its_own() -> None:
    done = run_script("""
run, x = slow(200)
assert team.workers == 1
child = os.fork()
assert np.array_equal(run.run([x, TWO])[0], 2 * x)
if child == 0:
    assert team.workers == 1
    run, x = slow(300)
    sys.exit(0)
_, status = os.waitpid(child, 0)
print('child', os.waitstatus_to_exitcode(status))
""")
    assert (done.returncode, done.stdout.strip()) == (0, "child 0"), done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt(threads: int) -> None:
    done = run_script(f"""
run, x = slow(40, spins=20_000, threads={threads})
long = executable(program(1 << 20), TestKernel(spins=200_000), threads={threads})
endless = np.zeros(1 << 20)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    long.run([endless, TWO])
except KeyboardInterrupt:
    print('interrupted')
assert time.monotonic() - start < 20
assert np.array_equal(run.run([x, TWO])[0], 2 * x)
""")
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr


def test_other_python_threads_run_during_a_long_run() -> None:
    done = run_script("""
run = executable(program(4000), TestKernel(spins=200_000), threads=2)
ticks, end = 0, False
def tick():
    global ticks
    while not end:
        ticks += 1
        time.sleep(0.001)
thread = threading.Thread(target=tick)
thread.start()
run.run([np.zeros(4000), TWO])
end = True
thread.join()
print(ticks > 20)
""")
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
