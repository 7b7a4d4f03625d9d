"""The machines of the model: what each does in a cycle, and where that is known from.

A field named in `assumed` has no public source: `bench.model` says how much a prediction changes with half and twice of
it. This machine's entry is measured (`measured`): clock, products and bandwidths; the rest follows from these.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llvmlite import ir

from backends.native.jit import Engine
from backends.native.kernel import I64
from backends.native.loops import counted_loop
from backends.native.target import Target, host, named
from backends.native.units import MatrixUnit

KIB, MIB = 1 << 10, 1 << 20
CHAIN, MULTIPLY_CYCLES, TURNS = 16, 3, 60_000  # of dependent 64-bit multiplications: 3 cycles on every x86 since 2008


@dataclass(frozen=True)
class Rates:
    """What a core does in a cycle: instructions, operations on vectors besides products, loads, bytes loaded from L1,
    bytes stored, prefetches, which take the place of loads."""

    issue: float
    vectors: float
    loads: float
    load_bytes: float
    store_bytes: float
    prefetches: float


@dataclass(frozen=True)
class Machine:
    """One core's limits. `target` has the instruction sets, and the caches as the engine sees them (bytes a core
    may use); `l3` is all there is for all cores, 0 where there is none. `clock` in Hz. `inside`: where products are
    made, `outside`: where operands are packed, which another mode makes different things. Bytes a cycle from L2 and L3.
    `bandwidth`: bytes a second of memory for all cores, `core_bandwidth` the most one core gets. `latency`: cycles from
    a product to its sum; `enter`: cycles to switch a unit with tiles on and off, or to load another configuration;
    `window`: instructions a machine reorders that multiplies tiles beside what else it does.
    `products`: cycles a product occupies the multiplier, by element type, where the unit's own figure is not this
    machine's. `assumed`: fields, or parts of them, without a source."""

    name: str
    title: str
    target: Target
    clock: float
    cores: int
    inside: Rates
    outside: Rates
    l2_bytes: float
    l3_bytes: float
    l3: int
    core_bandwidth: float
    bandwidth: float
    latency: float
    enter: float = 0.0
    window: int = 0
    products: Mapping[str, float] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    def scaled(self, name: str, factor: float) -> Machine:
        """With that figure, named as in `assumed`, so many times as large."""
        whole, _, part = name.partition(".")
        value = getattr(self, whole)
        if part:
            scaled = replace(value, **{part: factor * getattr(value, part)})
        else:
            scaled = {k: factor * v for k, v in value.items()} if isinstance(value, Mapping) else factor * value
        return replace(self, **{whole: scaled})

    def product_cycles(self, unit: MatrixUnit) -> float:
        """How long a product occupies this machine's multiplier."""
        return self.products.get(str(unit.a), unit.mma_cycles)

    def capacities(self, busy: int) -> dict[str, float]:
        """Bytes that each of `busy` cores finds in its caches."""
        return {"L1": self.target.l1, "L2": self.target.l2, "L3": self.l3 / busy}

    def memory_bytes(self, busy: int) -> float:
        """Bytes a cycle from memory for each of `busy` cores."""
        return min(self.core_bandwidth, self.bandwidth / busy) / self.clock


def _caches(name: str, l1: int, l2: int, l3: int, cores: int) -> Target:
    return replace(named(name), l1=l1, l2=l2, l3=l3, cores=cores)


def sapphire_rapids() -> Machine:
    """Xeon Platinum 8480+ (Intel ARK: 56 cores, 2.0 GHz base, 2 MiB L2, 105 MB L3, 8 x DDR5-4800). Of the core, Intel
    64 and IA-32 Architectures Optimization Reference Manual: 6 instructions allocated a cycle, two 64-byte loads, 64
    bytes stored, 64 bytes a cycle from L2 at best (48 kept up); its chapter on AMX: a product every 16 cycles, result
    after 52, a tile load every 8 cycles (two rows a cycle, which is the load ports' rate) and a tile store every 16.
    Quoted from memory: no copy was at hand."""
    core = Rates(issue=6, vectors=2, loads=2, load_bytes=128, store_bytes=64, prefetches=2)
    return Machine(
        "sapphire-rapids", "Sapphire Rapids (56 cores, 2.0 GHz)",
        _caches("x86-64-amx", 48 * KIB, 2 * MIB, 105 * MIB // 56, 56), 2.0e9, 56, core, core, l2_bytes=48, l3_bytes=10,
        l3=105 * MIB, core_bandwidth=12e9, bandwidth=307.2e9, latency=52, enter=100, window=512,
        assumed=("l2_bytes", "l3_bytes", "core_bandwidth", "enter", "window"),
    )  # fmt: skip


def granite_rapids() -> Machine:
    """Xeon 6980P (Intel ARK: 128 cores, 2.0 GHz base, 504 MB L3, 12 x DDR5-6400); the core as Sapphire Rapids', with
    products of FP16."""
    return replace(
        sapphire_rapids(), name="granite-rapids", title="Granite Rapids (128 cores, 2.0 GHz)",
        target=_caches("x86-64-amx", 48 * KIB, 2 * MIB, 504 * MIB // 128, 128), l3=504 * MIB, cores=128,
        bandwidth=614.4e9,
    )  # fmt: skip


def apple_m4() -> Machine:
    """A performance cluster of the M4, whose cores share one unit. Remke and Breuer, "Hello SME! Generating Fast Matrix
    Multiplication Kernels Using the Scalable Matrix Extension" (2024, arXiv 2409.18779): 2.3 TFLOPS in FP32 of both
    kinds of cores. Zakharko, "Exploring SME performance of Apple M4" (2024, github.com/tzakharko/m4-sme-exploration,
    reports/02, results/sme-memcpy.json), of a performance core: 2.0 TFLOPS in FP32 and bfloat16, 0.5 in FP64, 4 Top/s
    of bytes, so at 3.9 GHz a product a cycle in FP32 and FP64 and every two in bfloat16 and of bytes, results after 4.
    Loads of single registers, 96 to 400 KiB: one thread 227 GB/s in a loop of one, 290 in a loop of eight (0.9 and 1.2
    a cycle), four threads 590 to 700 GB/s. So a thread is taken to issue one load a cycle, and the unit to take 150
    bytes a cycle (590 GB/s) from one thread as well where a load names several registers, which is assumed. It reads
    through L2 (16 MiB a cluster), so L1 is as fast, and prefetches are the core's own."""
    return Machine(
        "apple-m4", "Apple M4 (a cluster's unit, 3.9 GHz)", _caches("armv9-sme2", 128 * KIB, 16 * MIB, 0, 1), 3.9e9,
        1, Rates(issue=8, vectors=1, loads=1, load_bytes=150, store_bytes=64, prefetches=float("inf")),
        Rates(issue=8, vectors=4, loads=3, load_bytes=48, store_bytes=32, prefetches=3), l2_bytes=150, l3_bytes=0, l3=0,
        core_bandwidth=100e9, bandwidth=120e9, latency=4, enter=100,
        products={"float64": 1, "float32": 1, "bfloat16": 2, "int8": 2},
        assumed=("inside.issue", "inside.vectors", "inside.loads", "inside.load_bytes", "inside.store_bytes",
                 "outside.issue", "outside.vectors", "l2_bytes", "core_bandwidth", "enter"),
    )  # fmt: skip


def lx2() -> Machine:
    """LX2: 304 cores at 1.55 GHz, vectors of 64 bytes in streaming mode, 128 FP64 and 256 FP32 operations a cycle and
    core, 4 TB/s of memory on the package (the task's figures; 60.3 and 120.6 TFLOPS in the preprint that The Register
    quotes, June 2026). So a product takes 1 cycle in FP64 and 2 in FP32. That one in bfloat16 and of bytes takes 2 as
    well (2 and 4 times FP32's rate) is assumed. Caches as Tom's Hardware reports (2026): 32 KiB L1, and 28.5 MB L2 for
    38 cores. Of the core nothing is public: it is assumed to allocate 4 instructions, load a register and store one a
    cycle, and to read 64 bytes a cycle from L2, as Fujitsu's A64FX, the other processor of this kind, does."""
    return Machine(
        "lx2", "LX2 (304 cores, 1.55 GHz)", _caches("armv9-sme", 32 * KIB, 57 * MIB // 76, 0, 304), 1.55e9, 304,
        Rates(issue=4, vectors=1, loads=1, load_bytes=64, store_bytes=64, prefetches=1),
        Rates(issue=4, vectors=2, loads=2, load_bytes=32, store_bytes=16, prefetches=2), l2_bytes=64, l3_bytes=0, l3=0,
        core_bandwidth=50e9, bandwidth=4e12, latency=8, enter=100,
        products={"float64": 1, "float32": 2, "bfloat16": 2, "int8": 2},
        assumed=("inside.issue", "inside.vectors", "inside.loads", "inside.load_bytes", "inside.store_bytes",
                 "outside.issue", "outside.vectors", "outside.loads", "outside.store_bytes", "l2_bytes",
                 "core_bandwidth", "latency", "enter", "products"),
    )  # fmt: skip


MACHINES = {"sapphire-rapids": sapphire_rapids, "granite-rapids": granite_rapids, "apple-m4": apple_m4, "lx2": lx2}


def measured(threads: int = 1) -> Machine:
    """This machine, by its clock, register-only peaks and bandwidths, measured now; idle neighbours make it true."""
    from backends.native.units import select
    from bench.bandwidth import LEVELS, Bandwidths
    from bench.peak import triple, unit_peak

    target, clock = host(), clock_rate()
    rates = Bandwidths(threads)
    read = {level: rates.measured(level) / threads / clock for level in LEVELS}
    products = {}
    for dtype in ("float64", "float32", "bfloat16", "int8"):
        unit, _ = select(target, *triple(dtype))
        products[dtype] = 2 * unit.m * unit.n * unit.k * clock / unit_peak(unit, 1, target)
    memory = read["memory"] * clock * threads
    core = Rates(issue=6, vectors=2, loads=2, load_bytes=read["L1"], store_bytes=read["L1"] / 2, prefetches=2)
    return Machine(
        "host", f"this machine ({clock / 1e9:.2f} GHz)", target, clock, target.cores, core, core, l2_bytes=read["L2"],
        l3_bytes=read["L3"], l3=target.l3, core_bandwidth=memory, bandwidth=memory, latency=4, products=products,
        assumed=("inside.issue", "inside.vectors", "inside.loads", "inside.store_bytes", "latency"),
    )  # fmt: skip


def clock_rate(rounds: int = 20) -> float:
    """Cycles a second, by a chain of dependent multiplications: the best of runs of a millisecond of this thread."""
    module = ir.Module("clock")
    function = ir.Function(module, ir.FunctionType(I64, [I64, I64]), "chain")
    builder = ir.IRBuilder(function.append_basic_block("entry"))

    def turn(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        value = carried[0]
        for _ in range(CHAIN):
            value = builder.mul(value, value)  # of other factors LLVM would make a tree
        return [value]

    builder.ret(counted_loop(builder, I64(0), function.args[1], I64(1), [function.args[0]], turn)[0])
    engine = Engine(host())
    engine.add(module, 0)
    chain = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(engine.address("chain"))
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        chain(3, TURNS)
        best = min(best, time.thread_time() - start)
    return TURNS * CHAIN * MULTIPLY_CYCLES / best
