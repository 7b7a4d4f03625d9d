"""How fast this machine reads memory: a loop of vector loads over working sets of every level, as many as threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from llvmlite import ir

from backends.native.jit import Engine
from backends.native.kernel import I32, I64, POINTER
from backends.native.loops import counted_loop
from backends.native.target import Target, host
from bench.parallel import elapsed

STREAMS = 8  # independent accumulators: more than a load's latency needs
BLOCK = 64 * STREAMS  # bytes a step reads at most
READ = 64 << 20  # bytes a sample reads at least: milliseconds
ROUNDS = 5
AHEAD = (0, 16 << 10)  # bytes to prefetch ahead: memory is read faster so, caches without (0)
MEMORY = 256 << 20  # at least, to count as memory
LEVELS = ("L1", "L2", "L3", "memory")


def bandwidth(size: int, threads: int = 1) -> float:
    """The best rate seen, in bytes a second, of reading `size` bytes again and again, cut into a part a thread."""
    buffers: dict[int, np.ndarray] = {}  # kept from round to round: fresh pages are slow to touch
    return max(_rate(_loop(host(), ahead), size, threads, buffers) for ahead in AHEAD)


def _rate(loop: ReadLoop, size: int, threads: int, buffers: dict[int, np.ndarray]) -> float:
    part = max(BLOCK, size // threads // BLOCK * BLOCK)
    repeats = max(1, -(-READ // threads // part))

    def prepare(number: int) -> Callable[[], object]:
        if number not in buffers:
            buffers[number] = np.ones(part + 64, np.uint8)
        buffer = buffers[number]
        loop(buffer, part, 1)  # into the caches
        return lambda: loop(buffer, part, repeats)

    return threads * part * repeats / min(elapsed(prepare, threads) for _ in range(ROUNDS))


def level(size: int, threads: int, target: Target | None = None) -> str:
    """Where `size` bytes live that `threads` threads share out among them: L1, L2, L3 or memory."""
    machine = target or host()
    part = size / threads
    for name, capacity in (("L1", machine.l1), ("L2", machine.l2), ("L3", machine.l3)):
        if part <= capacity:
            return name
    return "memory"


class Bandwidths:
    """The best bandwidth of every level so far, measured anew whenever it is asked for: a busy moment must not pass for
    the machine's limit."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.best: dict[str, float] = {}

    def measured(self, name: str) -> float:
        """The level's bandwidth, by a working set that fills half of it."""
        found = bandwidth(working_set(name, self.threads), self.threads)
        self.best[name] = max(found, self.best.get(name, 0.0))
        return self.best[name]


def working_set(name: str, threads: int, target: Target | None = None) -> int:
    """Bytes that live in a level and in no faster one; where there is no such level, in memory."""
    machine = target or host()
    if name == "memory":
        return max(MEMORY, 4 * machine.last_level * max(threads, machine.cores))
    capacity = {"L1": machine.l1, "L2": machine.l2, "L3": machine.l3}[name]
    return threads * capacity // 2 if capacity else working_set("memory", threads, machine)


class ReadLoop:
    """The compiled loop: loop(buffer, bytes, repeats), bytes a multiple of BLOCK; prefetches `ahead` bytes."""

    def __init__(self, target: Target, ahead: int = 0) -> None:
        module = ir.Module("bandwidth")
        _emit(module, target.vector, ahead)
        self._engine = Engine(target)
        self._engine.add(module)
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self._function = kind(self._engine.address("read"))

    def __call__(self, buffer: np.ndarray, size: int, repeats: int) -> int:
        return self._function(buffer.ctypes.data + -buffer.ctypes.data % 64, size, repeats)


@lru_cache(maxsize=4)
def _loop(target: Target, ahead: int) -> ReadLoop:
    return ReadLoop(target, ahead)


def _emit(module: ir.Module, vector: int, ahead: int) -> None:
    """i64 read(buffer, bytes, repeats): every vector or-ed into one of STREAMS accumulators."""
    lanes = ir.VectorType(I64, vector // 8)
    function = ir.Function(module, ir.FunctionType(I64, [POINTER, I64, I64]), "read")
    buffer, size, repeats = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    zeros = [ir.Constant(lanes, None)] * STREAMS
    prefetch = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32]), "llvm.prefetch.p0")

    def block(offset: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        found = []
        for stream, acc in enumerate(carried):
            at = builder.gep(buffer, [builder.add(offset, I64(stream * vector))])
            if ahead:  # to read, into every cache, as data
                builder.call(prefetch, [builder.gep(at, [I64(ahead)]), I32(0), I32(3), I32(1)])
            found.append(builder.or_(acc, builder.load(builder.bitcast(at, lanes.as_pointer()), align=vector)))
        return found

    def once(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        return counted_loop(builder, I64(0), size, I64(STREAMS * vector), carried, block)

    total, *others = counted_loop(builder, I64(0), repeats, I64(1), zeros, once)
    for other in others:
        total = builder.or_(total, other)
    builder.ret(builder.extract_element(total, I32(0)))
