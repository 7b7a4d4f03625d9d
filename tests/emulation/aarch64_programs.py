"""Lowered programs with every kernel call run on the emulated processor, and compared with its meaning at once.

Products of units that add up in an order of their own are compared with the unit's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from backends.native.gemm import GemmKernel
from backends.native.select import select
from backends.native.target import Target
from backends.native.units import MatrixUnit
from backends.reference import emulator, products
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
        kernel = select(_settled(call, size), target)
        with patch.context() as inside:
            if isinstance(kernel, GemmKernel) and not kernel.matrix_unit.in_order:
                inside.setattr(products, "fma_chain", partial(_chain, kernel.matrix_unit))
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


def _chain(unit: MatrixUnit, a: np.ndarray, b: np.ndarray, acc: np.dtype) -> np.ndarray:
    """As `products.fma_chain`, product by product as the unit means it."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    spare = -a.shape[-1] % unit.k
    a = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, spare)])
    b = np.pad(b, [(0, 0)] * (b.ndim - 2) + [(0, spare), (0, 0)])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    total = np.zeros((*batch, a.shape[-2], b.shape[-1]), acc)
    for index in np.ndindex(batch):
        for k in range(0, a.shape[-1], unit.k):
            total[index] = unit.emulate(total[index], a[index][:, k : k + unit.k], b[index][k : k + unit.k])
    return total


def _real(array: np.ndarray) -> np.ndarray:
    dense = np.array(array, order="C")
    return dense.view(dense.real.dtype) if dense.dtype.kind == "c" else dense


def _settled(call: KernelCall, size: Callable[[Size], int]) -> KernelCall:
    def settled(view: View) -> View:
        return replace(view, shape=tuple(map(size, view.shape)), strides=tuple(map(size, view.strides)))

    views = (tuple(settled(view) for view in part) for part in (call.reads, call.writes))
    return KernelCall(call.spec, *views, tuple(map(size, call.params)))
