"""AMX on machines without it: builds the emulator next to this file, and installs it for the length of a test."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

HOME = Path(__file__).parents[2]
SOURCES = tuple(sorted(Path(__file__).parent.glob("amx*.[ch]")))
BUILD = HOME / "build" / "emulation"
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-shared", "-fPIC")
REQUIRED = "SANSUAN_REQUIRE_EMULATION"  # set to 1, a missing compiler fails the tests that need one

EVENTS = 64  # as many as the emulator keeps, as in amx.h


class _Event(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint64), ("address", ctypes.c_uint64), ("length", ctypes.c_uint64),
        ("opcode", ctypes.c_int32), ("writes", ctypes.c_int32), ("reason", ctypes.c_char * 96),
    )  # fmt: skip


@dataclass(frozen=True)
class Event:
    """A fault, or an access outside the registered ranges."""

    instruction: str
    reason: str
    code: int  # address of the instruction
    address: int  # of the access; 0 for faults
    length: int
    writes: bool


class MissingCompiler(RuntimeError):
    """There is nothing to compile the emulator with."""


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The emulator, compiled anew when its sources changed.

    Raises MissingCompiler without a C compiler, and RuntimeError with what the compiler says if it fails.
    """
    compiler = _compiler()
    if compiler is None:
        raise MissingCompiler("no C compiler (cc, gcc or clang) on the PATH: install one to emulate AMX")
    digest = hashlib.sha256(repr((compiler, FLAGS)).encode() + b"".join(path.read_bytes() for path in SOURCES))
    path = BUILD / f"amx-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")  # several pytest workers may build at once
        sources = [str(source) for source in SOURCES if source.suffix == ".c"]
        command = [compiler, *FLAGS, "-o", str(fresh), *sources, "-lm", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        os.replace(fresh, path)
    found = ctypes.CDLL(str(path))
    found.amx_mnemonic.restype = ctypes.c_char_p
    found.amx_take_events.restype = ctypes.c_uint
    found.amx_register_range.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int)
    found.amx_guarded.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    return found


@lru_cache(maxsize=1)
def mnemonics() -> tuple[str, ...]:
    """The instructions the emulator knows, in the order of its counters."""
    names: list[str] = []
    while name := library().amx_mnemonic(len(names)):
        names.append(name.decode())
    return tuple(names)


def unfit() -> str | None:
    """Why this machine is none for the emulator, or None. Nothing to be installed would change it."""
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return f"AMX is emulated on x86-64 Linux only, this is {platform.machine()} {platform.system()}"
    if _compiler() and library().amx_native():
        return "this machine executes AMX itself, so nothing traps"
    return None


class Ranges:
    """Where tile loads may read and tile stores may write. Without any range they may do so anywhere; the stack of the
    executing thread is always allowed. Register ranges while no emulated code runs."""

    def add(self, array: np.ndarray, writable: bool = False) -> None:
        """The memory `array` (any shape and dtype) spans, from its first byte to its last."""
        low, high = np.lib.array_utils.byte_bounds(array)
        self.add_bytes(low, high, writable)

    def add_bytes(self, low: int, high: int, writable: bool = False) -> None:
        """The addresses low <= address < high. Raises RuntimeError when there are too many ranges."""
        if library().amx_register_range(low, high, writable):
            raise RuntimeError("too many ranges: clear those no longer needed")

    def clear(self) -> None:
        library().amx_clear_ranges()


class Emulator:
    """The trap, in place between `with` and the end of its block; it counts from zero.

    At the end the handler that was there before is put back, and faults and violations nobody asked for become an
    AssertionError. Raises RuntimeError if one is in place already, or if someone took the signal over in between.
    """

    def __init__(self) -> None:
        self.ranges = Ranges()

    def __enter__(self) -> Emulator:
        if library().amx_install():
            raise RuntimeError("the AMX trap is in place already: leave the other `with Emulator()` first")
        library().amx_reset()
        self.ranges.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if library().amx_uninstall():
            raise RuntimeError(
                "SIGILL was taken over while the AMX trap was in place: restore handlers in reverse order"
            )
        left = self.faults() + self.violations()
        self.ranges.clear()
        if kind is None:
            assert not left, "\n".join(map(str, left))

    def _counts(self) -> list[int]:
        counts = (ctypes.c_uint64 * (len(mnemonics()) + 1))()
        library().amx_counters(counts)
        return list(counts)

    def counters(self) -> dict[str, int]:
        """How often each instruction was executed, by mnemonic, in all threads; 0 where it was not."""
        return dict(zip(mnemonics(), self._counts(), strict=False))

    @property
    def traps(self) -> int:
        """How many signals that took: instructions behind each other share one."""
        return self._counts()[-1]

    @property
    def configured_threads(self) -> int:
        """How many threads hold a tile configuration: they did not execute TILERELEASE."""
        return int(library().amx_configured_threads())

    def reset(self) -> None:
        """Set counters to zero and forget faults and violations."""
        library().amx_reset()

    def guarded(self, function: int, argument: int = 0) -> bool:
        """Call the machine code void f(void *) at an address; True if an instruction faulted, which ended the call.

        Elsewhere a fault raises the signal that hardware would: SIGILL for #UD, SIGSEGV for #GP.
        """
        return bool(library().amx_guarded(function, argument))

    def faults(self) -> list[Event]:
        """Instructions that faulted, the first 64; asking forgets them."""
        return self._take(0)

    def violations(self) -> list[Event]:
        """Accesses outside the ranges, the first 64; asking forgets them."""
        return self._take(1)

    def _take(self, which: int) -> list[Event]:
        events = (_Event * EVENTS)()
        count = library().amx_take_events(which, events)
        return [
            Event(mnemonics()[e.opcode], e.reason.decode(), e.code, e.address, e.length, bool(e.writes))
            for e in events[: min(count, EVENTS)]
        ]


def require_emulation() -> None:
    """Skip the test on machines that are none for the emulator, and without a C compiler; with
    SANSUAN_REQUIRE_EMULATION=1 raise RuntimeError where there is no compiler."""
    if reason := unfit():
        pytest.skip(reason)
    try:
        library()
    except MissingCompiler as error:
        if os.environ.get(REQUIRED) == "1":
            raise
        pytest.skip(f"{error} ({REQUIRED}=1 makes this a failure)")


@pytest.fixture
def amx() -> Iterator[Emulator]:
    """The trap, in place for one test; see `require_emulation`."""
    require_emulation()
    with Emulator() as emulator:
        yield emulator
