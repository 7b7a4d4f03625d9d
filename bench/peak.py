"""This machine's peak: independent multiply-adds on registers only, generated from the matrix unit the engine selects.

What every rate is a percentage of; measured in the same process just before, because clocks and neighbours change.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from functools import lru_cache

import numpy as np
from llvmlite import ir

from backends.native.jit import Engine
from backends.native.kernel import I64, POINTER
from backends.native.loops import counted_loop
from backends.native.target import Target, host
from backends.native.units import MatrixUnit
from backends.native.units import select as select_unit
from compiler import dtypes

STEPS = 200_000  # some 0.7 ms: long against the start of a thread
ROUNDS = 8


def peak(dtype: str | dtypes.DType, threads: int = 1, target: Target | None = None) -> float:
    """The best rate seen, in operations a second (two a multiply-add), of the unit for products of `dtype`."""
    kind = dtypes.named(str(dtype))
    unit, _ = select_unit(target or host(), kind, kind, kind)
    loop = _loop(unit, target or host())
    best = min(_elapsed(loop, threads) for _ in range(ROUNDS))
    return 2.0 * threads * STEPS * _accumulators(unit) * unit.m * unit.n * unit.k / best


def _elapsed(loop: PeakLoop, threads: int) -> float:
    if threads == 1:
        start = time.perf_counter()
        loop()
        return time.perf_counter() - start
    barrier = threading.Barrier(threads + 1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []

    def work(number: int) -> None:
        if cores:  # the scheduler may leave a new thread on its parent's core for milliseconds
            os.sched_setaffinity(0, {cores[number % len(cores)]})
        barrier.wait()
        loop()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


class PeakLoop:
    """The compiled loop of one unit; calling it runs STEPS k-steps on every accumulator."""

    def __init__(self, unit: MatrixUnit, target: Target) -> None:
        module = ir.Module("peak")
        _emit(module, unit)
        self._engine = Engine(target)
        self._engine.add(module)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
        self._function = kind(self._engine.address("peak"))

    def __call__(self) -> None:
        memory = np.zeros(1 << 14, np.uint8)
        self._function(memory.ctypes.data, STEPS)


@lru_cache(maxsize=8)
def _loop(unit: MatrixUnit, target: Target) -> PeakLoop:
    return PeakLoop(unit, target)


def _accumulators(unit: MatrixUnit) -> int:
    return max(grid.rows * grid.columns for grid in unit.grids)


def _emit(module: ir.Module, unit: MatrixUnit) -> None:
    """void peak(memory, steps): the operands come from memory once, the sums go there at the end."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64]), "peak")
    memory, steps = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    unit.enter(builder)
    accs = [unit.zero(builder, number) for number in range(_accumulators(unit))]
    a, b = unit.load_a(builder, memory, I64(64)), unit.load_b(builder, memory, I64(64))
    carried = accs if unit.acc_type is not None else []

    def step(_: ir.Value, current: list[ir.Value]) -> list[ir.Value]:
        results = [unit.mma(builder, acc, a, b) for acc in current or accs]
        return results if carried else []

    results = counted_loop(builder, I64(0), steps, I64(1), carried, step) or accs
    for number, acc in enumerate(results):
        value = unit.row(builder, acc, 0)
        address = builder.gep(memory, [I64(number * 256)])
        builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=1)
    unit.leave(builder)
    builder.ret_void()
