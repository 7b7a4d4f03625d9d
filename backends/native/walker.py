"""Native code that walks a plan's steps: alone, or with the team by claims.

The claim walker: the caller publishes a step as one word (threads allowed, low, high) and takes chunks from the low
end while workers take them from the high end, each by one compare-and-swap. Nobody waits for a thread that has
claimed nothing, so a worker that is late, parked or descheduled costs only the chunk it holds. What a worker needs
to run a chunk is read after its claim succeeded: the claim keeps the step open until the chunk is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

from backends.native.code import I1, VOID, WORDS, Code
from backends.native.kernel import I32, I64, KERNEL_TYPE, POINTER, SLOT_ARENA, SLOT_STATUS
from backends.native.records import ARENA, PLAN, STEP, TEAM, WATCH
from backends.native.target import Target

# Results of `execute`; 0 and up: the number of the step that reported an error.
FINISHED, INTERRUPTED, ARENA_BUSY, ARENA_SMALL = -1, -2, -3, -4
TEAM_NS = 50_000  # programs with less work run alone
HOT_NS = 1_000_000  # after a longer pause since the last team run a program counts as cold
COLD_NS = 70_000  # how much longer a cold program has to be to wake anyone
RELEASE_NS = 1_000_000  # longer runs release the GIL
SLICE_NS = 50_000_000  # how often they look for signals
MEASURED_RUNS = 8  # runs of a plan that are timed
LOW, LIMIT, MAX_CHUNKS = 24, 48, (1 << 24) - 1  # where the claim word keeps its fields


class Walker:
    """Defines `execute(plan, slots, arena, team) -> result` and what it needs in a module."""

    def __init__(self, module: ir.Module, target: Target) -> None:
        self.module, self.target = module, target
        self.now = self._emit_now()
        self.look = self._emit_look()
        self.acquire = self._emit_acquire()

    def emit(self, wake: ir.Function) -> ir.Function:
        """Define `execute`. `wake(worker)` wakes a parked worker."""
        run_alone, run_team = self._emit_run_alone(), self._emit_run_team(wake)
        code = Code.define(self.module, "execute", I64, WORDS, WORDS, WORDS, WORDS)
        plan, slots, arena, team = code.arguments
        b = code.b
        self._take_arena(code, plan, arena)
        b.store(code.get(arena, ARENA, "base"), code.at(slots, I64(SLOT_ARENA)))
        watch = self._record(code, WATCH.words)
        started, unmeasured = code.variable(I64(0)), code.get(plan, PLAN, "unmeasured")
        work, wall = code.get(plan, PLAN, "work"), code.get(plan, PLAN, "wall")
        measuring, long = b.icmp_signed(">", unmeasured, I64(0)), b.icmp_signed(">=", wall, I64(RELEASE_NS))
        with code.when(measuring):
            started.set(b.call(self.now, []))
        first_look = b.select(long, I64(1), b.select(measuring, b.add(started.get(), I64(RELEASE_NS)), I64(0)))
        for field, value in (("until", first_look), ("state", I64(0)), ("interrupted", I64(0))):
            code.set(watch, WATCH, field, value)
        result, interrupted = code.variable(I64(INTERRUPTED)), code.variable(I1(0))
        with code.when(long):
            interrupted.set(b.call(self.look, [watch]))

        limit = self._smaller(code, code.get(plan, PLAN, "threads"), b.add(code.get(team, TEAM, "workers"), I64(1)))
        crowd = b.and_(b.icmp_signed(">", limit, I64(1)), b.icmp_signed(">=", work, I64(TEAM_NS)))
        lock, taken = code.field(team, TEAM, "lock"), code.variable(I1(0))
        with code.when(b.not_(interrupted.get()), likely=True):
            with code.when(crowd):
                taken.set(b.icmp_signed("==", b.atomic_rmw("xchg", lock, I64(1), "acquire"), I64(0)))
            with b.if_else(taken.get()) as (together, alone):
                with together:
                    result.set(b.call(run_team, [plan, slots, arena, watch, team, limit]))
                    b.store_atomic(I64(0), lock, "release", 8)
                with alone:
                    result.set(b.call(run_alone, [plan, slots, arena, watch]))
        state = code.get(watch, WATCH, "state")
        with code.when(b.icmp_signed("!=", state, I64(0))):
            code.call("PyEval_RestoreThread", VOID, code.pointer(state))
        with code.when(b.and_(measuring, b.icmp_signed("==", result.get(), I64(FINISHED)))):
            self._measure(code, plan, unmeasured, started.get(), b.select(taken.get(), limit, I64(1)))
        b.store_atomic(I64(0), code.field(arena, ARENA, "busy"), "release", 8)
        b.ret(result.get())
        return code.function

    def _take_arena(self, code: Code, plan: ir.Value, arena: ir.Value) -> None:
        """Make the arena this run's own, or return why not."""
        b = code.b
        with code.when(b.icmp_signed("!=", b.call(self.acquire, [arena]), I64(0)), likely=False):
            b.ret(I64(ARENA_BUSY))
        with code.when(
            b.icmp_signed("<", code.get(arena, ARENA, "bytes"), code.get(plan, PLAN, "bytes")), likely=False
        ):
            b.store_atomic(I64(0), code.field(arena, ARENA, "busy"), "release", 8)
            b.ret(I64(ARENA_SMALL))

    def _emit_acquire(self) -> ir.Function:
        """i64 acquire(arena): 0 if the arena was free; it is the caller's now."""
        code = Code.define(self.module, "acquire", I64, WORDS)
        code.b.ret(code.b.atomic_rmw("xchg", code.field(code.arguments[0], ARENA, "busy"), I64(1), "acquire"))
        return code.function

    def _measure(self, code: Code, plan: ir.Value, unmeasured: ir.Value, started: ir.Value, threads: ir.Value) -> None:
        """Better the plan's estimates by this run's time: the first run replaces them, later ones lower them."""
        b = code.b
        first = b.icmp_signed("==", unmeasured, I64(MEASURED_RUNS))
        took = b.sub(b.call(self.now, []), started)
        for field, value in (("wall", took), ("work", b.mul(took, threads))):
            code.set(plan, PLAN, field, b.select(first, value, self._smaller(code, value, code.get(plan, PLAN, field))))
        code.set(plan, PLAN, "unmeasured", b.sub(unmeasured, I64(1)))

    def _emit_now(self) -> ir.Function:
        """i64 now(): monotonic time in ns."""
        code = Code.define(self.module, "now", I64)
        spec = self._record(code, 2)
        code.call("clock_gettime", I32, I32(time.CLOCK_MONOTONIC), spec)
        code.b.ret(code.b.add(code.b.mul(code.load(spec, I64(0)), I64(1_000_000_000)), code.load(spec, I64(1))))
        return self._internal(code)

    def _emit_look(self) -> ir.Function:
        """i1 look(watch): if it is time, let Python's signal handlers run and (from then on) others have the GIL; says
        whether a handler raised."""
        code = Code.define(self.module, "look", I1, WORDS)
        (watch,) = code.arguments
        b = code.b
        now = b.call(self.now, [])
        with code.when(b.icmp_signed("<", now, code.get(watch, WATCH, "until"))):
            b.ret(I1(0))
        state = code.get(watch, WATCH, "state")
        with code.when(b.icmp_signed("!=", state, I64(0))):
            code.call("PyEval_RestoreThread", VOID, code.pointer(state))
        raised = b.icmp_signed("!=", code.call("PyErr_CheckSignals", I32), I32(0))
        with code.when(raised):
            code.set(watch, WATCH, "interrupted", I64(1))
        code.set(watch, WATCH, "state", code.word(code.call("PyEval_SaveThread", POINTER)))
        code.set(watch, WATCH, "until", b.add(now, I64(SLICE_NS)))
        b.ret(raised)
        return self._internal(code)

    def _emit_run_alone(self) -> ir.Function:
        """i64 run_alone(plan, slots, arena, watch): every chunk on this thread."""
        code = Code.define(self.module, "run_alone", I64, WORDS, WORDS, WORDS, WORDS)
        plan, slots, arena, watch = code.arguments
        scratch = self._scratch(code, plan, arena)
        with self._steps(code, plan, slots) as step, code.count(code.get(step, STEP, "chunks")) as chunk:
            call_kernel(code, step, slots, chunk, scratch)
            self._look(code, watch, lambda: code.b.ret(I64(INTERRUPTED)))
        code.b.ret(I64(FINISHED))
        return self._internal(code)

    def _emit_run_team(self, wake: ir.Function) -> ir.Function:
        """i64 run_team(plan, slots, arena, watch, team, limit): with `limit` threads; the team's lock is held."""
        code = Code.define(self.module, "run_team", I64, WORDS, WORDS, WORDS, WORDS, WORDS, I64)
        plan, slots, arena, watch, team, limit = code.arguments
        b = code.b
        scratch = self._scratch(code, plan, arena)
        stride, run = code.get(plan, PLAN, "scratch"), b.add(code.get(team, TEAM, "run"), I64(1))
        for field, value in (("slots", slots), ("scratch", scratch), ("stride", stride), ("run", run)):
            code.set(team, TEAM, field, value)
        code.call("fegetenv", I32, code.pointer(code.get(team, TEAM, "environment")))
        began = b.call(self.now, [])
        cold = b.icmp_signed(">", b.sub(began, code.get(team, TEAM, "began")), I64(HOT_NS))
        code.set(team, TEAM, "began", began)
        # A parked worker starts some 30 us late, and after a pause it finds cold caches: less is left to gain.
        ends = b.sub(b.add(began, code.get(plan, PLAN, "wall")), b.select(cold, I64(COLD_NS), I64(0)))
        claim, finished = code.field(team, TEAM, "claim"), code.field(team, TEAM, "finished")
        expected = code.variable(b.load_atomic(finished, "monotonic", 8))
        with self._steps(code, plan, slots) as step:
            chunks = code.get(step, STEP, "chunks")
            with b.if_else(b.icmp_signed("<=", chunks, I64(1)), likely=True) as (small, shared):
                with small, code.when(b.icmp_signed("==", chunks, I64(1))):
                    call_kernel(code, step, slots, I64(0), scratch)
                    self._look(code, watch, lambda: b.ret(I64(INTERRUPTED)))
                with shared:
                    code.set(team, TEAM, "step", step)
                    b.atomic_rmw("xchg", claim, b.or_(b.shl(limit, I64(LIMIT)), chunks), "seq_cst")
                    b.call(wake, [team, limit, ends])
                    high = self._take_chunks(code, step, slots, scratch, claim, watch)
                    expected.set(b.add(expected.get(), b.sub(chunks, high)))
                    self._await(code, finished, expected.get())
                    with code.when(b.icmp_signed("!=", code.get(watch, WATCH, "interrupted"), I64(0))):
                        b.ret(I64(INTERRUPTED))
        b.ret(I64(FINISHED))
        return self._internal(code)

    def _take_chunks(
        self, code: Code, step: ir.Value, slots: ir.Value, scratch: ir.Value, claim: ir.Value, watch: ir.Value
    ) -> ir.Value:
        """Run chunks from the low end until none is free; returns where the workers' share begins."""
        b = code.b
        high = code.variable(I64(0))

        def withdraw() -> None:
            """Take back the chunks nobody has claimed. The claim word is then 0, which no offered step leaves."""
            high.set(claim_bounds(code, b.atomic_rmw("xchg", claim, I64(0), "acq_rel"))[1])

        with code.loop() as leave_if:
            seen = b.load_atomic(claim, "monotonic", 8)
            leave_if(b.icmp_signed("==", seen, I64(0)))
            low, top = claim_bounds(code, seen)
            high.set(top)
            leave_if(b.icmp_signed(">=", low, top))
            swap = b.cmpxchg(claim, seen, b.add(seen, I64(1 << LOW)), "acq_rel", "monotonic")
            with code.when(b.extract_value(swap, 1)):
                call_kernel(code, step, slots, low, scratch)
                self._look(code, watch, withdraw)
        return high.get()

    def _await(self, code: Code, finished: ir.Value, expected: ir.Value) -> None:
        """Spin until the workers have finished that many chunks in all."""
        with code.loop() as leave_if:
            leave_if(code.b.icmp_signed("==", code.b.load_atomic(finished, "acquire", 8), expected))
            pause(code, self.target)

    @contextmanager
    def _steps(self, code: Code, plan: ir.Value, slots: ir.Value) -> Iterator[ir.Value]:
        """Repeat the body for each step, counting it for the ledger; return its number if a kernel reports an error."""
        b = code.b
        status, first = code.pointer(code.load(slots, I64(SLOT_STATUS)), WORDS), code.get(plan, PLAN, "steps")
        with code.count(code.get(plan, PLAN, "count")) as number:
            step = code.pointer(b.add(first, b.mul(number, I64(8 * STEP.words))), WORDS)
            yield step
            b.atomic_rmw("add", code.pointer(code.get(step, STEP, "counter"), WORDS), I64(1), "monotonic")
            with code.when(b.icmp_signed("!=", b.load_atomic(status, "monotonic", 8), I64(0)), likely=False):
                b.ret(number)

    def _scratch(self, code: Code, plan: ir.Value, arena: ir.Value) -> ir.Value:
        """The scratch memory of thread 0, as a word: it follows the temporaries."""
        return code.b.add(code.get(arena, ARENA, "base"), code.get(plan, PLAN, "arena"))

    def _look(self, code: Code, watch: ir.Value, interrupted: Callable[[], object]) -> None:
        """`look` if this run watches at all; do `interrupted` if a signal handler raised."""
        with (
            code.when(code.b.icmp_signed("!=", code.get(watch, WATCH, "until"), I64(0)), likely=False),
            code.when(code.b.call(self.look, [watch]), likely=False),
        ):
            interrupted()

    def _record(self, code: Code, words: int) -> ir.Value:
        with code.b.goto_entry_block():
            return code.b.alloca(I64, words)

    def _smaller(self, code: Code, a: ir.Value, b: ir.Value) -> ir.Value:
        return code.b.select(code.b.icmp_signed("<", a, b), a, b)

    def _internal(self, code: Code) -> ir.Function:
        code.function.linkage = "internal"
        return code.function


def call_kernel(code: Code, step: ir.Value, slots: ir.Value, chunk: ir.Value, scratch: ir.Value) -> None:
    """Run one chunk of a step."""
    kernel = code.pointer(code.get(step, STEP, "kernel"), KERNEL_TYPE.as_pointer())
    arguments = code.pointer(code.get(step, STEP, "args"), WORDS)
    code.b.call(kernel, [arguments, code.pointer(slots, POINTER.as_pointer()), chunk, code.pointer(scratch)])


def claim_bounds(code: Code, claim: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The low and high fields of a claim word."""
    mask = I64(MAX_CHUNKS)
    return code.b.and_(code.b.lshr(claim, I64(LOW)), mask), code.b.and_(claim, mask)


def pause(code: Code, target: Target) -> None:
    """Tell the processor this is a waiting loop."""
    name, arguments = target.spin_hint
    if name:
        code.call(name, VOID, *(I32(value) for value in arguments))
