"""A lowered program on this machine: kernels compiled, weights packed, plans made as shapes arrive."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backends.native.arena import ArenaPool
from backends.native.cache import ObjectCache
from backends.native.cuts import CutProgram
from backends.native.entry import Entry, entry
from backends.native.executor import executor
from backends.native.kernel import SLOT_FIRST_INPUT, SLOT_STATUS, STATUS_INDEX_OUT_OF_RANGE
from backends.native.late import Settling
from backends.native.library import counters
from backends.native.plan import Plan, Segment
from backends.native.prepare import is_simple, prepare
from backends.native.records import PLAN
from backends.native.sizes import SizeTable, bind
from backends.native.target import Target
from backends.native.team import team
from backends.native.tuning import Tuning
from backends.native.walker import ARENA_BUSY, ARENA_SMALL, FINISHED, TEAM_NS
from compiler.errors import IndexOutOfRange, SansuanError
from compiler.ir import Value
from compiler.kernels import HostCall, KernelCall, Lowered
from compiler.types import TensorType

STATUS_WORDS = 8


class Settings(Protocol):
    """What an executable wants to know of runtime.options.Options."""

    @property
    def threads(self) -> int: ...
    @property
    def cache_dir(self) -> Path | None: ...
    @property
    def plans(self) -> int: ...
    @property
    def tune(self) -> bool: ...


@dataclass(frozen=True)
class CallRow:
    """One lowered call for the ledger: the imported nodes it carries out, what runs it, and how often it has run."""

    where: tuple[str, ...]
    kernel: str
    unit: str
    reason: str
    call: KernelCall | HostCall
    runs: int


@dataclass(frozen=True)
class Statistics:
    """What a program holds, in bytes beyond the caller's arrays, and what this process has compiled."""

    kernels: int
    kernels_compiled: int  # by this whole process, so that a test can see that a new shape compiles nothing
    kernels_cached: int
    plans: int
    planned: int
    weight_bytes: int
    arena_bytes: int


@dataclass(frozen=True, eq=False)
class Planned:
    """A program without cuts for given input shapes."""

    plan: Plan
    outputs: tuple[tuple[tuple[int, ...], np.dtype], ...]


class PlanCache:
    """Plans by key; beyond `limit` the least recently used go."""

    def __init__(self, limit: int) -> None:
        self.made = 0
        self._limit, self._lock = limit, threading.Lock()
        self._plans: OrderedDict[object, Planned | Plan] = OrderedDict()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: object) -> Planned | Plan | None:
        """The plan of that key, which becomes the most recently used."""
        with self._lock:
            found = self._plans.get(key)
            if found is not None:
                self._plans.move_to_end(key)
            return found

    def put(self, key: object, plan: Planned | Plan) -> None:
        """Keep a plan."""
        with self._lock:
            self.made += 1
            self._plans[key] = plan
            while len(self._plans) > self._limit:
                self._plans.popitem(last=False)

    def clear(self) -> None:
        """Forget all plans."""
        with self._lock:
            self._plans.clear()


class Executable:
    """See the module. `run` may be called from several threads at once."""

    def __init__(self, lowered: Lowered, target: Target, options: Settings, arenas: ArenaPool | None = None) -> None:
        """arenas: memory shared with other executables; None: its own."""
        cache = ObjectCache(options.cache_dir) if options.cache_dir else None
        self.executor = executor(cache)
        self.prepared = prepare(lowered, target, options.threads, cache, Tuning(target, cache, options.tune))
        self.inputs, self.outputs = lowered.inputs, lowered.outputs
        self._late, self._guards = lowered.late, lowered.guards
        self.plans = PlanCache(options.plans)
        self._entries: list[Entry] = []
        self.arenas = ArenaPool() if arenas is None else arenas
        simple = is_simple(lowered, self.prepared.pieces)
        self.cuts = None if simple else CutProgram(self, lowered, lambda body: Executable(body, target, options))
        self._sizes = SizeTable(size for _, view in self.outputs for size in view.shape)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on inputs in order: C-contiguous, aligned, native byte order, of the declared element types and ranks.

        Returns fresh arrays. Raises ShapeError, IndexOutOfRange, or sizes.GuardBroken when the program has to be
        compiled anew for these sizes.
        """
        if self.cuts is not None:
            return self.cuts.run(arrays)
        planned = self.plan_for(arrays)
        outputs = [np.empty(shape, dtype) for shape, dtype in planned.outputs]
        self.execute(planned.plan, self.slot_table([*arrays, *outputs]))
        for known in self._entries:
            known.remember(planned.plan, arrays, outputs)
        return outputs

    def entry(self, fallback: Callable[..., Any]) -> Callable[..., Any]:
        """What to call instead of `fallback(*arrays, **named) -> tuple of fresh arrays`, faster for calls like earlier
        ones: a native builtin, which calls `fallback` for the others."""
        made = entry(fallback, self.arenas.main.address, self) if self.cuts is None else None
        if made is None:
            return fallback
        self._entries.append(made)
        return made.function

    def plan_for(self, arrays: Sequence[np.ndarray]) -> Planned:
        """The plan for these inputs (a program without cuts)."""
        key = tuple([array.shape for array in arrays])
        planned = self.plans.get(key)
        if planned is None:
            settling = Settling(self._late, self._guards, self.prepared.weights.plain)
            sizes, origin = settling.sizes, dict[str, str]()
            for _ in range(2):  # an axis such as 2*n may come before the axis that decides n
                for value, array in zip(self.inputs, arrays, strict=True):
                    bind(array.shape, _tensor(value), sizes, f"input {value.name!r}", origin)
            planned = self._settled(settling)
            self.plans.put(key, planned)
        assert isinstance(planned, Planned)
        return planned

    def plan_under(self, sizes: Mapping[str, int]) -> Planned:
        """A new plan for all named sizes, for callers that keep plans themselves (a program without cuts)."""
        settling = Settling(self._late, self._guards, self.prepared.weights.plain)
        settling.sizes.update(sizes)
        return self._settled(settling)

    def _settled(self, settling: Settling) -> Planned:
        settling.settle()
        sizes = settling.sizes
        size = self._sizes.under(sizes)
        views = [view for _, view in self.outputs]
        outputs = tuple((tuple(size(extent) for extent in view.shape), view.dtype.numpy) for view in views)
        (segment,) = self.prepared.pieces
        assert isinstance(segment, Segment)
        return Planned(segment.plan(sizes, segment.late_contents(settling.results)), outputs)

    def slot_table(self, buffers: Sequence[np.ndarray]) -> np.ndarray:
        """The slot words of a run: status, absolute, arena, then the buffers; the status word comes after them."""
        count = SLOT_FIRST_INPUT + len(buffers)
        table = np.zeros(count + STATUS_WORDS, np.int64)
        table[SLOT_STATUS] = table.ctypes.data + 8 * count
        table[SLOT_FIRST_INPUT:count] = [array.__array_interface__["data"][0] for array in buffers]
        return table

    def execute(self, plan: Plan, table: np.ndarray) -> None:
        """Walk a plan with that slot table. Raises what the run reports."""
        if plan.threads > 1 and PLAN.read(plan.words, "work") >= TEAM_NS:
            team.ensure(plan.threads)
        result = ARENA_BUSY
        for arena in self.arenas.arenas():
            result = self.executor.execute(plan.address, table.ctypes.data, arena.address, team.address)
            if result == ARENA_SMALL:
                self.arenas.grow(arena, plan.memory, self.executor)
                result = self.executor.execute(plan.address, table.ctypes.data, arena.address, team.address)
            if result not in (ARENA_BUSY, ARENA_SMALL):
                break
        while result in (ARENA_BUSY, ARENA_SMALL):
            arena = self.arenas.another(plan.memory)
            result = self.executor.execute(plan.address, table.ctypes.data, arena.address, team.address)
        self.check(result, plan, int(table[-STATUS_WORDS]))

    def check(self, result: int, plan: Plan, status: int) -> None:
        """Raise what a result of the walker stands for (an interruption has raised its own exception already)."""
        if result == FINISHED:
            return
        place = plan.places[result][0] if plan.places[result] else "model"
        if status == STATUS_INDEX_OUT_OF_RANGE:
            raise IndexOutOfRange(f"{place}: an index is out of range of the axis it indexes; check the index input")
        raise SansuanError(f"{place}: a kernel reported error {status}")

    def refresh(self, weights: Mapping[str, np.ndarray], calls: Sequence[KernelCall | HostCall] = ()) -> None:
        """Take new weight values: packed forms are written again in place, nothing is compiled. calls: this program's,
        with the bodies of control flow as they are now."""
        if self.prepared.weights.refresh(weights):
            for known in self._entries:
                known.forget()
            self.plans.clear()
        if self.cuts is not None and calls:
            self.cuts.refresh(calls)

    def rows(self) -> list[CallRow]:
        """The ledger: one row a lowered call."""
        rows, tuned = [], self.prepared.tuned
        for number, (call, kernel) in enumerate(self.prepared.calls):
            runs = int(self.prepared.counters[number])
            if kernel is None:
                assert isinstance(call, HostCall)
                rows += self._host_rows(call, runs)
            else:
                reason = "; ".join(filter(None, [kernel.reason, "tuned" if number in tuned else ""]))
                rows.append(CallRow(call.where, kernel.name, kernel.unit, reason, call, runs))
        return rows

    def _host_rows(self, call: HostCall, runs: int) -> list[CallRow]:
        """A Host call's row, then those of its bodies' calls, which carry out the same imported node."""
        bodies = self.cuts.bodies(call).values() if self.cuts is not None else ()
        reason = "; ".join(dict.fromkeys([call.reason, *(f"a body {body.note}" for body in bodies if body.note)]))
        inner = [row for body in bodies for program in body.programs() for row in program.rows()]
        named = [replace(row, where=tuple(dict.fromkeys((*row.where, *call.where)))) for row in inner]
        return [CallRow(call.where, call.node.op, "host", reason, call, runs), *named]

    def statistics(self) -> Statistics:
        """Counts and sizes now, bodies of control flow included."""
        programs = [self, *(self.cuts.body_programs() if self.cuts is not None else ())]
        kernels = {kernel.name for program in programs for _, kernel in program.prepared.calls if kernel is not None}
        return Statistics(
            len(kernels), counters.compiled, counters.cached,
            sum(len(program.plans) for program in programs), sum(program.plans.made for program in programs),
            sum(program.prepared.weights.bytes for program in programs),
            sum(program.arenas.bytes for program in programs),
        )  # fmt: skip


def _tensor(value: Value) -> TensorType:
    assert isinstance(value.type, TensorType), f"{value.name} is no tensor"
    return value.type
