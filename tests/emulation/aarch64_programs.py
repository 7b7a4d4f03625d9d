"""Lowered programs with every kernel call run on the emulated processor, and compared with its meaning at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from backends.native.target import Target
from backends.reference import emulator
from backends.reference.kernels import run_call
from compiler.dims import Size
from compiler.evaluate import Mode
from compiler.kernels import KernelCall, Lowered, View
from tests.backends.native.harness import assert_same
from tests.emulation.aarch64 import Processor


def run(
    lowered: Lowered, arrays: Sequence[np.ndarray], processor: Processor, target: Target, patch: pytest.MonkeyPatch
) -> set[str]:
    """Run a program in NumPy, and every call of it for `target` as well: an AssertionError where bits differ. Gives the
    names of the units its kernels ran on."""
    units: set[str] = set()

    def both(call: KernelCall, reads: Sequence[np.ndarray], writes: Sequence[np.ndarray], size: Callable[[Size], int],
             mode: Mode) -> None:  # fmt: skip
        before = [np.array(write) for write in writes]
        run_call(call, reads, writes, size, mode)
        expected = [np.array(write) for write in writes]
        for write, content in zip(writes, before, strict=True):
            write[...] = content
        unit, status = processor.call(target, _settled(call, size), reads, writes)
        assert status == 0, call.spec
        units.add(unit)
        for write, wanted in zip(writes, expected, strict=True):
            assert_same(_real(write), _real(wanted))

    with patch.context() as context:
        context.setattr(emulator, "run_call", both)
        emulator.EmulatedExecutable(lowered).run(arrays)
    return units


def _real(array: np.ndarray) -> np.ndarray:
    dense = np.array(array, order="C")
    return dense.view(dense.real.dtype) if dense.dtype.kind == "c" else dense


def _settled(call: KernelCall, size: Callable[[Size], int]) -> KernelCall:
    def settled(view: View) -> View:
        return replace(view, shape=tuple(map(size, view.shape)), strides=tuple(map(size, view.strides)))

    views = (tuple(settled(view) for view in part) for part in (call.reads, call.writes))
    return KernelCall(call.spec, *views, tuple(map(size, call.params)))
