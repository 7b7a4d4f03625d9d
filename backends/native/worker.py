"""Native code of the team's workers: claim, run, spin, park; and waking them.

Parking is Dekker's protocol with sequentially consistent accesses: the publisher writes the claim word and then reads
`parked`; the worker writes `parked` and then reads the claim word. Before a parked worker is woken it is told to avoid
the caller's CPU: schedulers like to wake a thread right where its waker spins.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.code import VOID, WORDS, Code, Variable
from backends.native.kernel import I32, I64, POINTER
from backends.native.records import TEAM, WORKER
from backends.native.target import Target
from backends.native.walker import LIMIT, call_kernel, claim_bounds, pause

SPIN_NS = 42_000  # how long an idle worker spins before it parks
WAKE_NS = 50_000  # a run that will end sooner wakes nobody
CPU_SET_WORDS = 16  # 1024 CPUs
_SPINS = 64  # looks at the claim word between two looks at the clock
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129


def emit_wake(module: ir.Module, target: Target, now: ir.Function) -> ir.Function:
    """void wake(team, limit, ends): wake the parked workers numbered below limit, unless `ends` (ns) is near."""
    code = Code.define(module, "wake", VOID, WORDS, I64, I64)
    code.function.linkage = "internal"
    if not target.futex_call:  # then no team is ever started
        code.b.ret_void()
        return code.function
    wake_one = _emit_wake_one(module, target)
    team, limit, ends = code.arguments
    b = code.b
    records = code.get(team, TEAM, "records")
    with code.count(b.sub(limit, I64(1))) as i:
        worker = code.pointer(b.add(records, b.mul(i, I64(8 * WORKER.words))), WORDS)
        parked = code.field(worker, WORKER, "parked")
        with code.when(b.icmp_signed("!=", b.load_atomic(parked, "seq_cst", 8), I64(0)), likely=False):
            with code.when(b.icmp_signed("<", b.sub(ends, b.call(now, [])), I64(WAKE_NS))):
                b.ret_void()
            b.call(wake_one, [worker])
    b.ret_void()
    return code.function


def _emit_wake_one(module: ir.Module, target: Target) -> ir.Function:
    """void wake_one(worker)."""
    code = Code.define(module, "wake_one", VOID, WORDS)
    (worker,) = code.arguments
    b = code.b
    parked = code.field(worker, WORKER, "parked")
    swap = b.cmpxchg(parked, I64(1), I64(0), "seq_cst", "monotonic")
    with code.when(b.not_(b.extract_value(swap, 1))):
        b.ret_void()
    cpu = b.zext(code.call("sched_getcpu", I32), I64)
    avoids = b.add(cpu, I64(1))
    moves = b.and_(
        b.icmp_unsigned("<", cpu, I64(64 * CPU_SET_WORDS)),
        b.icmp_signed("!=", avoids, code.get(worker, WORKER, "avoids")),
    )
    with code.when(moves):
        allowed, mask = code.get(worker, WORKER, "allowed"), code.get(worker, WORKER, "mask")
        rest = code.variable(I64(0))
        with code.count(I64(CPU_SET_WORDS)) as i:
            bit = b.select(b.icmp_signed("==", i, b.lshr(cpu, I64(6))), b.shl(I64(1), b.and_(cpu, I64(63))), I64(0))
            kept = b.and_(code.load(allowed, i), b.not_(bit))
            b.store(kept, code.at(mask, i))
            rest.set(b.or_(rest.get(), kept))
        with code.when(b.icmp_signed("!=", rest.get(), I64(0))):
            thread = code.get(worker, WORKER, "thread")
            code.call("pthread_setaffinity_np", I32, thread, I64(8 * CPU_SET_WORDS), code.pointer(mask))
            code.set(worker, WORKER, "avoids", avoids)
    _futex(code, target, parked, _WAKE_PRIVATE, 1)
    b.ret_void()
    code.function.linkage = "internal"
    return code.function


def emit_worker(module: ir.Module, target: Target, now: ir.Function) -> ir.Function:
    """void *worker(record): the body of a worker thread."""
    code = Code.define(module, "worker", POINTER, WORDS)
    (worker,) = code.arguments
    b = code.b
    team = code.pointer(code.get(worker, WORKER, "team"), WORDS)
    number, parked = code.get(worker, WORKER, "number"), code.field(worker, WORKER, "parked")
    claim, stop = code.field(team, TEAM, "claim"), code.field(team, TEAM, "stop")
    run, idle_since, spins = code.variable(I64(0)), code.variable(b.call(now, [])), code.variable(I64(0))
    with code.loop() as leave_if:
        leave_if(b.icmp_signed("!=", b.load_atomic(stop, "acquire", 8), I64(0)))
        seen = b.load_atomic(claim, "monotonic", 8)
        with b.if_else(_offered(code, seen, number)) as (some, none):
            with some:
                swap = b.cmpxchg(claim, seen, b.sub(seen, I64(1)), "acq_rel", "monotonic")
                with code.when(b.extract_value(swap, 1)):
                    _, high = claim_bounds(code, seen)
                    _run_claimed(code, team, number, b.sub(high, I64(1)), run)
                    idle_since.set(b.call(now, []))
                    spins.set(I64(0))
            with none:
                pause(code, target)
                spins.set(b.add(spins.get(), I64(1)))
                with code.when(b.icmp_signed("==", b.and_(spins.get(), I64(_SPINS - 1)), I64(0))):
                    waited = b.sub(b.call(now, []), idle_since.get())
                    with code.when(b.icmp_signed(">", waited, I64(SPIN_NS))):
                        _park(code, target, parked, claim, stop, number)
                        idle_since.set(b.call(now, []))
    b.ret(ir.Constant(POINTER, None))
    return code.function


def _offered(code: Code, claim: ir.Value, number: ir.Value) -> ir.Value:
    """Whether the claim word has a free chunk for this worker."""
    low, high = claim_bounds(code, claim)
    return code.b.and_(
        code.b.icmp_signed("<", low, high), code.b.icmp_signed("<", number, code.b.lshr(claim, I64(LIMIT)))
    )


def _run_claimed(code: Code, team: ir.Value, number: ir.Value, chunk: ir.Value, run: Variable) -> None:
    """Run a chunk, in the caller's floating point environment, and report it finished."""
    b = code.b
    current = code.get(team, TEAM, "run")
    with code.when(b.icmp_signed("!=", current, run.get())):
        code.call("fesetenv", I32, code.pointer(code.get(team, TEAM, "environment")))
        run.set(current)
    scratch = b.add(code.get(team, TEAM, "scratch"), b.mul(number, code.get(team, TEAM, "stride")))
    step = code.pointer(code.get(team, TEAM, "step"), WORDS)
    call_kernel(code, step, code.get(team, TEAM, "slots"), chunk, scratch)
    b.atomic_rmw("add", code.field(team, TEAM, "finished"), I64(1), "release")


def _park(code: Code, target: Target, parked: ir.Value, claim: ir.Value, stop: ir.Value, number: ir.Value) -> None:
    """Sleep until woken, unless work was offered or the end announced meanwhile."""
    b = code.b
    b.atomic_rmw("xchg", parked, I64(1), "seq_cst")
    busy = b.or_(
        _offered(code, b.load_atomic(claim, "seq_cst", 8), number),
        b.icmp_signed("!=", b.load_atomic(stop, "seq_cst", 8), I64(0)),
    )
    with code.when(b.not_(busy)):
        _futex(code, target, parked, _WAIT_PRIVATE, 1)
    b.atomic_rmw("xchg", parked, I64(0), "seq_cst")


def _futex(code: Code, target: Target, word: ir.Value, operation: int, value: int) -> None:
    if not target.futex_call:
        return
    null = ir.Constant(POINTER, None)
    numbers = (I64(target.futex_call), code.pointer(word), I64(operation), I64(value), null, null, I64(0))
    code.call("syscall", I64, *numbers, variadic=True)
