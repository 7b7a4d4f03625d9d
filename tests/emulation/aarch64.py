"""Arm kernels on any machine QEMU runs on: compiled here, run in one long-lived emulated process.

    from tests.emulation.aarch64 import Processor, aarch64   # a fixture

While the fixture is in place the harness of the native tests runs kernels there, whatever they are compiled for.
Emulation shows what is computed, never how fast.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import random
import resource
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from llvmlite import ir

from backends.native.jit import compile_object
from backends.native.kernel import SLOT_FIRST_INPUT, SLOT_STATUS, Arguments, NativeKernel
from backends.native.select import select
from backends.native.target import Target
from compiler.kernels import KernelCall, View
from tests.backends.native import harness
from tests.emulation import aarch64_install
from tests.emulation.aarch64_object import linked
from tests.emulation.aarch64_worker import MARSHAL
from tests.emulation.amx import REQUIRED

# Without authenticated pointers, which take time, and with streaming mode as narrow as hardware has it; its vectors
# are 64 bytes long.
CPU = "max,pauth=off,sme_fa64=off,sme-default-vector-length=64"
WIDE = "max,pauth=off,sme=off,sve-default-vector-length={}"  # with vectors of so many bytes outside streaming mode
WORKER = Path(__file__).with_name("aarch64_worker.py")


class Processor:
    """An emulated process. `cpu`: QEMU's name and options of its processor; `options`: QEMU's further ones."""

    def __init__(self, cpu: str = CPU, options: Sequence[str] = ()) -> None:
        emulator, python = aarch64_install.emulator(), aarch64_install.python()
        assert emulator and python, aarch64_install.missing()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        command = [emulator, *options, "-cpu", cpu, "-L", aarch64_install.ROOT, python, "-I", "-S", "-B", WORKER]
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )
        resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))  # tests let it die
        self._entries: dict[tuple[NativeKernel, Target], int] = {}
        weakref.finalize(self, self._process.kill)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def load(self, code: bytes, name: str) -> int:
        """The address of function `name` of an object file. Raises ValueError if it needs anything outside."""
        image, entry = linked(code, name)
        return self._ask("load", image) + entry

    def run(
        self, entry: int, words: list[int], operands: list[tuple[bytes, int]], chunks: list[int], scratch: int
    ) -> tuple[int, list[bytes], str]:
        """Call a kernel once a chunk, between fences: see the worker. Raises AssertionError if the process dies of it,
        as it does of touching a fence and of instructions its processor lacks."""
        return self._ask("run", entry, words, operands, SLOT_FIRST_INPUT, chunks, scratch)

    def execute(self, kernel: NativeKernel, target: Target, planned: Arguments, memory: dict[str, np.ndarray]) -> int:
        """As `harness.execute`, in the emulated process."""
        assert SLOT_STATUS == 0
        names = list(memory)
        words: list[int] = []
        for word in planned.words:
            words += [SLOT_FIRST_INPUT + names.index(word.buffer), 0] if isinstance(word, View) else [int(word)]
        spans = [(array.ctypes.data, *np.lib.array_utils.byte_bounds(array)) for array in memory.values()]
        operands = [(ctypes.string_at(low, high - low), first - low) for first, low, high in spans]
        chunks = list(range(planned.chunks))
        random.Random(7).shuffle(chunks)
        status, contents, wrong = self.run(self._entry(kernel, target), words, operands, chunks, planned.scratch)
        assert not wrong, f"{kernel.name} wrote {wrong}"
        for (_, low, _), (before, _), after in zip(spans, operands, contents, strict=True):
            if before != after:  # views may interleave, so only what was written goes back
                found, old = np.frombuffer(after, np.uint8), np.frombuffer(before, np.uint8)
                there = np.frombuffer((ctypes.c_ubyte * len(after)).from_address(low), np.uint8)
                there[found != old] = found[found != old]
        return status

    def call(
        self, target: Target, call: KernelCall, reads: Sequence[np.ndarray], writes: Sequence[np.ndarray]
    ) -> tuple[str, int]:
        """Run a kernel call, all of whose sizes are known, on arrays for its views; the unit and the status word."""
        kernel = select(call, target)
        arrays = list((*reads, *writes))
        for read in kernel.packed_reads(call):
            arrays[read] = kernel.pack(call, read, arrays[read])
        views = [replace(view, buffer=f"b{i}", offset=0) for i, view in enumerate((*call.reads, *call.writes))]
        call = replace(call, reads=tuple(views[: len(reads)]), writes=tuple(views[len(reads) :]))
        memory = {view.buffer: array for view, array in zip(views, arrays, strict=True)}
        return kernel.unit, self.execute(kernel, target, kernel.arguments(call, int, 3), memory)

    def _entry(self, kernel: NativeKernel, target: Target) -> int:
        if (kernel, target) not in self._entries:
            code = _compiled(kernel, target)
            self._entries[kernel, target] = self.load(code, kernel.name)
        return self._entries[kernel, target]

    def _ask(self, name: str, *arguments: object) -> tuple[int, list[bytes], str] | int:
        message = marshal.dumps((name, *arguments), MARSHAL)
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(struct.pack("<Q", len(message)) + message)
            self._process.stdin.flush()
            header = self._process.stdout.read(8)
        except BrokenPipeError:
            header = b""
        if not header:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip()
            raise AssertionError(f"the emulated process ended with {self._process.returncode}: {said[-2000:]}")
        return marshal.loads(self._process.stdout.read(struct.unpack("<Q", header)[0]))


@lru_cache(maxsize=1024)
def _compiled(kernel: NativeKernel, target: Target) -> bytes:
    module = ir.Module(kernel.name)
    kernel.emit(module)
    return compile_object(module, target)


_processors: dict[str, Processor] = {}


def processor(cpu: str = CPU) -> Processor:
    """The process of this name, started anew if the last one died."""
    if cpu not in _processors or not _processors[cpu].alive:
        _processors[cpu] = Processor(cpu)
    return _processors[cpu]


def cpu_of(target: Target) -> str:
    """The name of a processor that runs code for `target`."""
    return WIDE.format(target.vector) if target.scale else CPU


def emulated(monkeypatch: pytest.MonkeyPatch, cpu: str = CPU) -> Processor:
    """The processor of this name, with the harness running kernels there for as long as `monkeypatch` lasts. Skips
    where an emulator is missing, unless SANSUAN_REQUIRE_EMULATION=1."""
    missing = aarch64_install.missing()
    if missing and os.environ.get(REQUIRED) != "1":
        pytest.skip(f"needs {missing}: `make emulators`")
    assert not missing, f"{missing} is missing: run `make emulators`"
    found = processor(cpu)
    monkeypatch.setattr(harness, "execute", found.execute)
    return found


@pytest.fixture
def aarch64(monkeypatch: pytest.MonkeyPatch) -> Processor:
    """An emulated Arm processor, on which the harness runs kernels."""
    return emulated(monkeypatch)
