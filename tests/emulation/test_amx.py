"""The harness around the emulator: memory ranges, the signal handlers before and after, machines it is not for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

from tests.emulation import amx as harness
from tests.emulation.amx import Emulator, require_emulation
from tests.emulation.machine_code import asm_function, call, compiled, configuration, run


def copy_code() -> Callable[[list[int]], None]:
    return call(("ldtilecfg", 0), ("tileloadd64", 0, 1, 2), ("tilestored64", 0, 3, 4), ("tilerelease",))


def test_an_access_one_byte_too_far_is_a_violation(amx: Emulator) -> None:
    source, out = np.zeros(4 * 16, np.uint8), np.zeros((4, 16), np.uint8)
    config = configuration({0: (4, 16)})
    slots = [config.ctypes.data, source.ctypes.data, 16, out.ctypes.data, 16]
    amx.ranges.add(source)
    amx.ranges.add(out, writable=True)
    copy_code()(slots)
    assert amx.violations() == []
    copy_code()([slots[0], slots[1] + 1, *slots[2:]])
    (found,) = amx.violations()
    assert (found.instruction, found.address, found.length, found.writes) == (
        "TILELOADD", source.ctypes.data + 49, 16, False
    )  # fmt: skip
    copy_code()([*slots[:3], slots[3] - 1, 16])
    (found,) = amx.violations()
    assert (found.instruction, found.address, found.writes) == ("TILESTORED", out.ctypes.data - 1, True)
    amx.ranges.clear()
    copy_code()([slots[0], slots[1] + 1, *slots[2:]])
    assert amx.violations() == []


def test_what_may_be_read_may_not_be_written(amx: Emulator) -> None:
    source, out = np.zeros((4, 16), np.uint8), np.zeros((4, 16), np.uint8)
    config = configuration({0: (4, 16)})
    for array in (source, out):
        amx.ranges.add(array)
    copy_code()([config.ctypes.data, source.ctypes.data, 16, out.ctypes.data, 16])
    assert [(x.writes, x.address) for x in amx.violations()] == [(True, out.ctypes.data + 16 * i) for i in range(4)]


def test_a_violation_nobody_looks_at_fails_the_test(amx: Emulator) -> None:
    config, memory = configuration({0: (1, 4)}), np.zeros(4, np.uint8)
    amx.ranges.add_bytes(1, 2)
    copy_code()([config.ctypes.data, memory.ctypes.data, 0, memory.ctypes.data, 0])
    with pytest.raises(AssertionError, match=r"TILELOADD.*outside the registered ranges"):
        amx.__exit__(None, None, None)
    amx.__enter__()


def test_the_stack_needs_no_range(amx: Emulator) -> None:
    config, out = configuration({0: (2, 8)}), np.zeros((2, 8), np.uint8)
    amx.ranges.add(out, writable=True)
    lines = ["movq (%rdi), %rax", "ldtilecfg (%rax)", "movq $8, %rcx", "movq 8(%rdi), %rdx"]
    lines += ["tilestored %tmm0, -16(%rsp,%rcx)", "tileloadd -16(%rsp,%rcx), %tmm0", "tilestored %tmm0, (%rdx,%rcx)"]
    function = asm_function([*lines, "sttilecfg -128(%rsp)", "tilerelease"])
    slots = [config.ctypes.data, out.ctypes.data]
    run(function, slots)
    thread = threading.Thread(target=run, args=(function, slots))
    thread.start()
    thread.join()
    assert amx.violations() == []


def test_a_fault_nobody_asks_for_fails_the_test(amx: Emulator) -> None:
    assert amx.guarded(compiled(("tilezero", 0)))
    with pytest.raises(AssertionError, match=r"TILEZERO.*not configured"):
        amx.__exit__(None, None, None)
    amx.__enter__()
    assert amx.faults() == []


HEAD = """
import ctypes, faulthandler, os, signal, sys
from tests.emulation.amx import Emulator, require_emulation
from tests.emulation.machine_code import compiled
unconfigured = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled(("tilezero", 0)))
"""


def script(body: str) -> subprocess.CompletedProcess[str]:
    require_emulation()
    return subprocess.run(
        [sys.executable, "-c", HEAD + body], capture_output=True, text=True, cwd=harness.HOME, check=False, timeout=60
    )


def test_a_fault_says_why_and_reaches_the_faulthandler() -> None:
    done = script("faulthandler.enable()\nwith Emulator(): unconfigured(0)")
    assert done.returncode == -signal.SIGILL
    assert "TILEZERO at 0x" in done.stderr and "tiles are not configured" in done.stderr
    assert "Fatal Python error: Illegal instruction" in done.stderr


def test_afterwards_the_instructions_are_illegal_again() -> None:
    done = script("with Emulator(): pass\nprint('left', flush=True)\nunconfigured(0)")
    assert (done.stdout, done.stderr, done.returncode) == ("left\n", "", -signal.SIGILL)


def test_the_previous_handler_is_restored() -> None:
    done = script("""
seen = []
signal.signal(signal.SIGILL, lambda number, frame: seen.append(number))
with Emulator():
    os.kill(os.getpid(), signal.SIGILL)
    assert seen == [signal.SIGILL], "a signal that was sent is none of the emulator's"
os.kill(os.getpid(), signal.SIGILL)
assert seen == [signal.SIGILL] * 2
signal.signal(signal.SIGILL, signal.SIG_IGN)
with Emulator():
    os.kill(os.getpid(), signal.SIGILL)
signal.signal(signal.SIGILL, signal.SIG_DFL)
print("alive", flush=True)
with Emulator():
    os.kill(os.getpid(), signal.SIGILL)
""")
    assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGILL), done.stderr


def test_a_sent_signal_executes_nothing() -> None:
    done = script("""
from tests.emulation.machine_code import asm_function, run
seen = []
signal.signal(signal.SIGILL, lambda number, frame: seen.append(number))
# kill(getpid(), SIGILL), right before an instruction that would have been executed
send = asm_function(["movq (%rdi), %rdi", "movq $4, %rsi", "movq $62, %rax", "syscall", "tilerelease"])
with Emulator() as emulator:
    run(send, [os.getpid()])
    assert seen == [signal.SIGILL] and emulator.counters()["TILERELEASE"] == 1
""")
    assert done.returncode == 0, done.stderr


def test_one_trap_at_a_time(amx: Emulator) -> None:
    with pytest.raises(RuntimeError, match="in place already"), Emulator():
        pass


def test_a_handler_that_was_not_given_back_is_noticed() -> None:
    done = script("""
emulator = Emulator()
emulator.__enter__()
signal.signal(signal.SIGILL, signal.SIG_IGN)
emulator.__exit__(None, None, None)
""")
    assert "RuntimeError: SIGILL was taken over" in done.stderr


def test_what_the_emulator_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.platform, "machine", lambda: "aarch64")
    assert harness.unfit() == "AMX is emulated on x86-64 Linux only, this is aarch64 Linux"


@pytest.mark.parametrize(("required", "outcome"), [("0", pytest.skip.Exception), ("1", harness.MissingCompiler)])
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]) -> None:
    require_emulation()
    monkeypatch.setenv(harness.REQUIRED, required)
    monkeypatch.setattr(harness.shutil, "which", lambda name: None)
    harness.library.cache_clear()
    with pytest.raises(outcome, match="no C compiler"):
        require_emulation()
