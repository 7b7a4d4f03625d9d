"""This machine's peak: independent multiply-adds on registers only, generated from the matrix unit the engine selects.

What every rate is a percentage of; measured in the same process just before, because clocks and neighbours change.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from backends.native.jit import Engine
from backends.native.kernel import I64, POINTER
from backends.native.loops import counted_loop
from backends.native.target import Target, host
from backends.native.units import ORDERED, MatrixUnit
from backends.native.units import select as select_unit
from bench.parallel import elapsed
from compiler import dtypes
from compiler.dtypes import DType

STEPS = 200_000  # some 0.7 ms
STEPS_OF_MANY = 8 * STEPS  # long against the start of threads
ROUNDS = 8
MEMORY = 1 << 16
OPERANDS_B = MEMORY // 4  # where they start: A's come first, and the sums go to the second half
STRIDE = 256  # bytes between operands: more than a register
# What products of a type are made of where it is not the type itself: both operands, and what they are summed up in.
TRIPLES: dict[DType, tuple[DType, DType, DType]] = {
    dtypes.bfloat16: (dtypes.bfloat16, dtypes.bfloat16, dtypes.float32),
    dtypes.float16: (dtypes.float16, dtypes.float16, dtypes.float32),
    dtypes.int8: (dtypes.int8, dtypes.int8, dtypes.int32),
    dtypes.uint8: (dtypes.uint8, dtypes.int8, dtypes.int32),
}


def triple(dtype: str | DType) -> tuple[DType, DType, DType]:
    """The types of A, of B and of the accumulator in products of `dtype`."""
    kind = dtypes.named(str(dtype))
    return TRIPLES.get(kind, (kind, kind, kind))


def peak(dtype: str | DType, threads: int = 1, target: Target | None = None) -> float:
    """The best rate seen, in operations a second (two a multiply-add), of the unit for products of `dtype`."""
    unit, _ = select_unit(target or host(), *triple(dtype))
    return unit_peak(unit, threads, target or host())


def unit_peak(unit: MatrixUnit, threads: int, target: Target, steps: int = 0) -> float:
    """The best rate seen of one unit, by runs of that many steps (0: long enough)."""
    loop = _loop(unit, target)
    steps = steps or (STEPS if threads == 1 else STEPS_OF_MANY)
    best = min(elapsed(lambda _: lambda: loop(steps), threads) for _ in range(ROUNDS))
    return 2.0 * threads * steps * loop.products * unit.m * unit.n * unit.k / best


class PeakLoop:
    """The compiled loop of one unit; calling it runs that many steps of `products` mma each."""

    def __init__(self, unit: MatrixUnit, target: Target) -> None:
        module = ir.Module("peak")
        self.products = _emit(module, unit)
        self._engine = Engine(target)
        self._engine.add(module)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
        self._function = kind(self._engine.address("peak"))

    def __call__(self, steps: int) -> np.ndarray:
        # A moderate number in every type: zeros would let the clock go higher than data does.
        memory = np.full(MEMORY, 0x3F, np.uint8)
        self._function(memory.ctypes.data, steps)
        return memory[MEMORY // 2 :]


@lru_cache(maxsize=64)
def _loop(unit: MatrixUnit, target: Target) -> PeakLoop:
    return PeakLoop(unit, target)


def _emit(module: ir.Module, unit: MatrixUnit) -> int:
    """void peak(memory, steps): the operands come from memory once, the sums go there at the end. Returns the products
    a step.

    Integer units may multiply with one instruction and add with another, and a product that is the same for two
    accumulators or for two steps would then be computed once. So every accumulator gets a pair of operands of its own,
    and A's change places from step to step. Floats are multiplied and added at once: all take the same operands.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64]), "peak")
    memory, steps = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    unit.enter(builder)

    def load(load_one: Any, start: int, number: int) -> Any:
        return load_one(builder, builder.gep(memory, [I64(start + number * STRIDE)]), I64(64))

    separable = unit.acc_type is not None and unit.acc.is_integer
    rows, columns = _operands(unit) if separable else (1, 1)
    left = [load(unit.load_a, 0, number) for number in range(rows)]
    right = [load(unit.load_b, OPERANDS_B, number) for number in range(columns)]
    products = rows * columns if separable else max(grid.rows * grid.columns for grid in unit.grids)
    accs = [unit.zero(builder, number) for number in range(products)]
    moving = left if separable else []

    def step(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        sums, current = (carried[:products] or accs), carried[products:]
        pairs = [(a, b) for a in current or left for b in right] * (products // (rows * columns))
        results = [unit.mma(builder, acc, a, b) for acc, (a, b) in zip(sums, pairs, strict=True)]
        return [*results, *current[1:], *current[:1]] if carried else []

    initial = [] if unit.acc_type is None else [*accs, *moving]
    results = counted_loop(builder, I64(0), steps, I64(1), initial, step)[:products] or accs
    for number, acc in enumerate(results):
        value = unit.row(builder, acc, 0)
        address = builder.gep(memory, [I64(MEMORY // 2 + number * STRIDE)])
        builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=1)
    unit.leave(builder)
    builder.ret_void()
    return products


def _operands(unit: MatrixUnit) -> tuple[int, int]:
    """How many operands of A and of B to hold, a register each: as many pairs, each with an accumulator, as the widest
    micro-kernel of the instruction set has registers for (its accumulators, a row of B's and one of A's)."""
    relatives = [other for other in (unit, *ORDERED) if other.isa == unit.isa]
    registers = max(grid.rows * grid.columns + grid.columns + 1 for other in relatives for grid in other.grids)
    sizes = range(1, registers)
    fitting = [(rows, columns) for rows in sizes for columns in sizes if (rows + 1) * (columns + 1) <= registers + 1]
    return max(fitting, key=lambda pair: (pair[0] * pair[1], pair[1]))
