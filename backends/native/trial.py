"""A GEMM call run by itself, on memory like its own, as the executor runs it: what tuning measures.

One run is a plan of several such calls, so that reading the clock costs nothing; on several threads the team takes
part. A constant B that a whole model would stream from memory comes from one of many places in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backends.native.arena import Arena
from backends.native.blocking import Blocking
from backends.native.executor import executor
from backends.native.gemm import GemmKernel
from backends.native.kernel import SLOT_FIRST_INPUT, SLOT_STATUS
from backends.native.memory import align, aligned_empty
from backends.native.plan import Plan, PlannedCall, Segment
from backends.native.team import team
from backends.native.walker import FINISHED
from compiler.dims import Size
from compiler.kernels import KernelCall, View

RUN_NS = 200_000  # what a run should take, where one call takes less
MOST_CALLS = 64  # in a run, so that their arguments stay in L1
COLD_BYTES = 128 << 20  # of weights to cycle through
MOST_BYTES = 1 << 30  # of operands; larger products are not tried
FILLING = 0x3F  # bytes of it are a small normal number in every float type
STATUS_WORDS = 8


class Pool:
    """Memory for the weights of trials, made when first needed. cold: whether they come from memory, so that all trials
    together have to go through the pool before one meets what another has read."""

    def __init__(self, cold: bool) -> None:
        self.cold = cold
        self._memory = aligned_empty(0)
        self._next = 0

    def places(self, size: int, count: int) -> list[int]:
        """Addresses of the next `count` weights of `size` bytes."""
        least = max(size, COLD_BYTES if self.cold else 0)
        if self._memory.nbytes < least:
            self._memory = _filled(least)
        found = []
        for _ in range(count):
            if not self.cold or self._next + size > self._memory.nbytes:
                self._next = 0
            found.append(self._memory.ctypes.data + self._next)
            self._next += align(size)
        return found


@dataclass(frozen=True)
class OneCut:
    """Cuts every call of a segment alike."""

    cut: Blocking

    def cuts(
        self, calls: Sequence[PlannedCall], likenesses: Sequence[object], size: Callable[[Size], int], threads: int
    ) -> Mapping[object, Blocking]:
        """See plan.Cutter."""
        return dict.fromkeys(likenesses, self.cut)


class Trial:
    """One call, ready to be measured under any cut."""

    def __init__(
        self, kernel: GemmKernel, planned: PlannedCall, size: Callable[[Size], int], threads: int, pool: Pool
    ) -> None:
        """size: sizes to numbers. Raises MemoryError for operands beyond MOST_BYTES."""
        self.kernel, self.planned, self.threads = kernel, planned, threads
        self.call = _with_numbers(planned.call, size)
        self._counter = np.zeros(1, np.int64)
        self._memory = self._operands()
        self._weight = kernel.packed_bytes(self.call, number) if kernel.spec.constant_b else 0
        if self._weight + sum(array.nbytes for array in self._memory.values()) > MOST_BYTES:
            raise MemoryError(f"{kernel.name}: operands too large to be tried")
        self._pool = pool
        self._arena = Arena()
        self._plans: dict[Blocking, Plan] = {}
        self.repeat = 1

    def calibrate(self, cut: Blocking) -> float:
        """How long a call takes, in ns; from now on runs are as long as they should be."""
        took = min(self.nanoseconds(cut) for _ in range(2))
        self.repeat = max(1, min(MOST_CALLS, int(RUN_NS / max(took, 1.0))))
        self._plans.clear()
        return took

    def nanoseconds(self, cut: Blocking) -> float:
        """A call's share of one run."""
        plan = self._plans.get(cut)
        if plan is None:
            plan = self._plans[cut] = self._plan(cut)
        return self._run(plan) / self.repeat

    def _run(self, plan: Plan) -> float:
        table = self._table()
        if plan.memory > self._arena.memory.nbytes:
            self._arena.grow(plan.memory)
            self._arena.memory[...] = 0  # or a first run would be about new pages
        if self.threads > 1:
            team.ensure(self.threads)
        execute, records = executor().execute, (plan.address, table.ctypes.data, self._arena.address, team.address)
        start = time.perf_counter_ns()
        result = execute(*records)
        took = time.perf_counter_ns() - start
        return took if result == FINISHED else float("inf")

    def _plan(self, cut: Blocking) -> Plan:
        slots = {name: SLOT_FIRST_INPUT + i for i, name in enumerate(self._names())}
        counter = self._counter.ctypes.data
        calls = [replace(self.planned, call=self._repeated(i), counter=counter) for i in range(self.repeat)]
        return Segment(calls, {}, slots, {}, {}, self.threads, OneCut(cut)).plan({}, {})

    def _names(self) -> list[str]:
        weights = [_weight_name(i) for i in range(self.repeat)] if self._weight else []
        return [*self._memory, *weights]

    def _repeated(self, number: int) -> KernelCall:
        """The call as it is run for the `number`th time."""
        if not self._weight:
            return self.call
        a, b, *others = self.call.reads
        return replace(self.call, reads=(a, replace(b, buffer=_weight_name(number)), *others))

    def _table(self) -> np.ndarray:
        """The slots of a run, whose weights are those that come next."""
        bases = [array.ctypes.data for array in self._memory.values()]
        bases += self._pool.places(self._weight, self.repeat) if self._weight else []
        table = np.zeros(SLOT_FIRST_INPUT + len(bases) + STATUS_WORDS, np.int64)
        table[SLOT_STATUS] = table.ctypes.data + 8 * (SLOT_FIRST_INPUT + len(bases))
        table[SLOT_FIRST_INPUT : SLOT_FIRST_INPUT + len(bases)] = bases
        return table

    def _operands(self) -> dict[str, np.ndarray]:
        """Memory for what the call reads and writes, but for a constant B."""
        constant = self.kernel.spec.constant_b
        views = [view for i, view in enumerate((*self.call.reads, *self.call.writes)) if not (constant and i == 1)]
        sizes: dict[str, int] = {}
        for view in views:
            sizes[view.buffer] = max(sizes.get(view.buffer, 0), _bytes(view))
        if sum(sizes.values()) > MOST_BYTES:
            raise MemoryError(f"{self.kernel.name}: operands too large to be tried")
        memory = {name: _filled(size) for name, size in sizes.items()}
        if self.kernel.spec.ends:
            self._share_rows(self.call.reads[-1], memory)
        return memory

    def _share_rows(self, ends: View, memory: Mapping[str, np.ndarray]) -> None:
        """Groups of equally many rows."""
        (groups,), (stride,), rows = (
            _numbers(ends.shape),
            _numbers(ends.strides),
            _numbers(self.call.writes[0].shape)[-2],
        )
        numbers = memory[ends.buffer].view(ends.dtype.numpy)
        for group in range(groups):
            numbers[number(ends.offset) + group * stride] = rows * (group + 1) // groups


def _weight_name(number: int) -> str:
    return f"weight {number}"


def _filled(size: int) -> np.ndarray:
    memory = aligned_empty(align(size))
    memory[...] = FILLING
    return memory


def _with_numbers(call: KernelCall, size: Callable[[Size], int]) -> KernelCall:
    """The call, its sizes numbers."""

    def known(view: View) -> View:
        shape, strides = tuple(map(size, view.shape)), tuple(map(size, view.strides))
        return replace(view, shape=shape, strides=strides, offset=size(view.offset))

    params = tuple(map(size, call.params))
    return replace(call, reads=tuple(map(known, call.reads)), writes=tuple(map(known, call.writes)), params=params)


def _bytes(view: View) -> int:
    """Bytes from the buffer's start to the end of the view."""
    shape, strides = _numbers(view.shape), _numbers(view.strides)
    last = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True) if stride > 0 and extent)
    return (number(view.offset) + last + 1) * view.dtype.bytes


def _numbers(sizes: Iterable[Size]) -> list[int]:
    return [number(size) for size in sizes]


def number(size: Size) -> int:
    """A size that is known."""
    assert isinstance(size, int)
    return size
