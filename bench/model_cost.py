"""Cycles of a matrix product on one core, from the emitted code, the counts of a call and the machine's limits.

A k-step takes as long as its scarcest resource: the multiplier, the load ports (instructions, bytes, and what comes
from L2 because it is reused too late for L1), the front end, other work on vectors. What happens between micro-kernels
(clearing, leaving, epilogue, control) is added, not overlapped, although machines overlap some of it. Packing is a
phase of its own, as long as its instructions or its traffic. Everything else that passes through L3 or memory streams
beside the micro-kernels: it costs what exceeds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from backends.native import gemm
from backends.native.deferred import RUN
from backends.native.epilogue import ROWS_TOGETHER
from backends.native.gemm import GemmKernel
from backends.native.target import Target
from bench.gemm_kernels import Case, call_of
from bench.model_code import Function, Loop, Mix, Visit, emitted, finishes, mix_of, resumes, tile_rows
from bench.model_counts import Counts, Micro, counts
from bench.model_limits import Limits
from bench.model_machines import Machine
from bench.model_packing import Packing

# What a product's cycles are spent on. The first is what would remain of a perfect program.
PARTS = ("multiplier", "tails", "loads", "front end", "vectors", "results", "control", "packing", "bandwidth", "entry")


@dataclass(frozen=True)
class Prediction:
    """Cycles of one call by part (they add up to `cycles`), and how long each resource is busy."""

    machine: Machine
    case: Case
    kernel: GemmKernel
    counts: Counts
    parts: Mapping[str, float]
    busy: Mapping[str, float]

    @property
    def cycles(self) -> float:
        return sum(self.parts.values())

    @property
    def fraction(self) -> float:
        """Of the multiplier's peak."""
        return self.parts["multiplier"] / self.cycles

    @property
    def binds(self) -> str:
        """The resource that is busy longest."""
        return max(self.busy, key=lambda name: self.busy[name])

    @property
    def loss(self) -> str:
        """The part that costs most besides multiplying."""
        return max(PARTS[1:], key=lambda name: self.parts[name])


@lru_cache(maxsize=256)
def _code(kernel: GemmKernel, target: Target) -> dict[str, Function]:
    return emitted(kernel, target)


def predict(machine: Machine, case: Case, busy: int = 1) -> Prediction:
    """A product on one core, while `busy` cores each have one like it and share the memory's bandwidth."""
    call = call_of(case)
    kernel = gemm.select(call, machine.target)
    return _Product(machine, case, kernel, counts(kernel, call), busy).prediction()


class _Product:
    def __init__(self, machine: Machine, case: Case, kernel: GemmKernel, found: Counts, busy: int) -> None:
        self.machine, self.case, self.kernel, self.counts = machine, case, kernel, found
        self.unit, self.code, self.limits = kernel.matrix_unit, _code(kernel, machine.target), Limits(machine, busy)
        unit, words = self.unit, found.words
        self.a_bytes = case.m * case.k * unit.a.bytes
        self.b_bytes = case.n * case.k * unit.b.bytes
        result = kernel.spec.epilogue[0].dtype if kernel.spec.epilogue else unit.acc
        self.c_bytes = case.m * case.n * result.bytes
        self.slabs = -(-case.k // words["slab"]) if case.k else 1
        self.block_bytes = min(words["block_rows"], case.m) * min(words["slab"], case.k) * unit.left.bytes
        self.panel_bytes = kernel.width * min(words["depth"], max(case.k, 1)) * unit.right.bytes
        self.home = self.limits.level(self.a_bytes + self.b_bytes + self.c_bytes)

    def prediction(self) -> Prediction:
        parts = dict.fromkeys(PARTS, 0.0)
        case, unit, one = self.case, self.unit, self.machine.product_cycles(self.unit)
        parts["multiplier"] = case.m * case.n * case.k / (unit.m * unit.n * unit.k) * one
        parts["tails"] = self.counts.products(unit.k) * one - parts["multiplier"]
        busy = dict.fromkeys(("multiplier", "loads", "front end", "vectors"), 0.0)
        busy["multiplier"] = parts["multiplier"] + parts["tails"]
        for micro, times in self.counts.micro.items():
            steps = -(-micro.depth // unit.k)
            limits = {name: steps * cycles for name, cycles in self._step(micro).items()}
            multiplying = steps * micro.rows * micro.columns * micro.panels * one
            if unit.finishes_late:
                for name, cycles in self._beside(micro).items():
                    limits[name] += cycles
                parts["results"] += times * self._alone(micro)
            else:
                parts["results"] += times * self._around(micro)
            limits["loads"] = max(limits["loads"], limits.pop("caches"))
            slowest = max(limits, key=lambda name: limits[name])
            if slowest != "multiplier":
                parts[slowest] += times * (limits[slowest] - multiplying)
            for name in ("loads", "front end", "vectors"):
                busy[name] += times * limits[name]
        parts["control"] = self._control()
        computing = sum(parts.values())
        kept = self.b_bytes if self.counts.words["b_step"] else self.panel_bytes
        parts["packing"] = Packing(self.kernel, self.code, self.counts, self.limits, self.home, self.block_bytes,
                                   kept).cycles()  # fmt: skip
        streaming = self._streaming()
        parts["bandwidth"] = max(0.0, streaming - computing)
        entries = self.counts.blocks if unit.mode else self.counts.chunks
        parts["entry"] = self.machine.enter * entries if unit.acc_type is None else 0.0
        busy.update({"results": parts["results"] + parts["control"], "packing": parts["packing"],
                     "bandwidth": streaming})  # fmt: skip
        return Prediction(self.machine, case, self.kernel, self.counts, parts, busy)

    def _step(self, micro: Micro) -> dict[str, float]:
        """Cycles of a k-step by what they are bound by."""
        machine, unit = self.machine, self.unit
        function, loop = self._micro(micro)
        mix = mix_of(function.lines(loop), function.streaming)
        limits = self.limits.of(mix)
        left = micro.rows * unit.m * unit.k * unit.left.bytes
        right = micro.panels * micro.columns * unit.n * unit.k * unit.right.bytes
        own = micro.rows * unit.m * micro.depth * unit.left.bytes
        beyond = 0.0
        near = self.limits.level(own + self.panel_bytes * micro.panels)
        if self.counts.panels > self.counts.blocks * self.slabs:  # rows of A meet several panels, the block in between
            beyond += left * self.limits.late(self.limits.level(self.block_bytes + self.panel_bytes))
        if micro.m < min(self.counts.words["block_rows"], self.case.m):  # a panel meets several rows
            beyond += right * self.limits.late(near)
        limits["caches"] = beyond
        limits["multiplier"] = micro.rows * micro.columns * micro.panels * machine.product_cycles(unit)
        return limits

    def _beside(self, micro: Micro) -> dict[str, float]:
        """Cycles by resource of what a micro-kernel does besides its steps, where products are made meanwhile: it ends
        and another begins within the machine's window, and rows of the tile before are finished between steps."""
        between, late = self._between(micro), self._late(micro)
        rows = self.limits.level(self.counts.words["block_rows"] * self.kernel.width * self.unit.acc.bytes)
        caches = 0.0
        if micro.resumes or not micro.last:
            caches += (between.load_bytes + between.store_bytes) * self.limits.late(rows)
        if micro.limited:
            caches += 2 * self.machine.enter
        mix = between * self.limits.overlapping(between) + late * self.limits.overlapping(self._piece(micro))
        return {**self.limits.of(mix), "caches": caches}

    def _alone(self, micro: Micro) -> float:
        """Cycles of what of that is more than the machine's window holds, so that nothing is multiplied meanwhile."""
        between = self._between(micro)
        cycles = (self.limits.cycles(between) + self.machine.latency) * (1 - self.limits.overlapping(between))
        return cycles + self.limits.cycles(self._late(micro)) * (1 - self.limits.overlapping(self._piece(micro)))

    def _late(self, micro: Micro) -> Mix:
        """What finishing a tile between runs of steps takes."""
        if not micro.last or micro.direct:
            return Mix()
        advance = self.code[f"{self.kernel.name}_advance"].once()[0]
        return sum(self._finishing(micro), Mix()) + (advance + self._run(micro)) * self._runs(micro)

    def _piece(self, micro: Micro) -> Mix:
        """As much of it as lies between two runs."""
        return self._late(micro) * (1 / max(min(self._runs(micro), -(-micro.m // ROWS_TOGETHER)), 1))

    def _runs(self, micro: Micro) -> int:
        return -(-micro.depth // (self.unit.k * RUN))

    def _run(self, micro: Micro) -> Mix:
        """What a micro-kernel does between two runs of steps."""
        function, loop = self._micro(micro)
        outer = function.around(loop)
        return function.once(outer, [_at(function, loop)])[0] if outer else Mix()

    def _around(self, micro: Micro) -> float:
        """Cycles of a micro-kernel besides its steps, and of the epilogue behind it."""
        cycles = self.limits.cycles(self._between(micro)) + self.machine.latency
        if micro.limited:
            cycles += 2 * self.machine.enter  # there and back
        return cycles + (self._epilogue(micro) if micro.last and not micro.direct else 0.0)

    def _between(self, micro: Micro) -> Mix:
        """What a micro-kernel does besides its steps."""
        unit = self.unit
        function, loop = self._micro(micro)
        visits = [_at(function, loop), *([finishes] if micro.direct else []), *([resumes] if micro.resumes else [])]
        mix, loops = function.once(None, visits)
        for other in loops:  # what else there is in loops are rows of tiles
            lines, passes = function.lines(other), 0.0 if loop.body <= other.body else unit.m
            mix += mix_of(lines, function.streaming) * (passes / tile_rows(lines))
        if micro.resumes and not unit.gives_rows:  # whole tiles, by a load each
            size = micro.rows * micro.columns * unit.m * unit.n * unit.acc.bytes
            mix += Mix(load_bytes=size)
        return mix

    def _epilogue(self, micro: Micro) -> float:
        return sum(map(self.limits.cycles, self._finishing(micro)))

    def _finishing(self, micro: Micro) -> tuple[Mix, Mix, Mix]:
        """What the epilogue of a tile does: around its rows, around the vectors of a row, in vectors."""
        function = self.code[f"{self.kernel.name}_epilogue"]
        inner = function.innermost()[0]
        outer = function.around(inner)
        vectors = mix_of(function.lines(inner), function.streaming)
        rows = function.once(outer, [_at(function, inner)])[0]
        pairs = -(-micro.m // ROWS_TOGETHER)
        return function.once()[0], rows * pairs, vectors * (pairs * -(-micro.n // self.unit.n))

    def _control(self) -> float:
        """Cycles of the macro-kernel around its micro-kernels, panels and blocks of rows."""
        cycles = self.limits.cycles(self.code[self.kernel.name].once()[0])
        inner = self.code.get(f"{self.kernel.name}_panels")  # where what works on tiles is a function of its own
        cycles += self.limits.cycles(inner.once()[0]) * self.counts.blocks if inner else 0.0
        around = inner or self.code[self.kernel.name]
        panels = set()
        for micro, times in self.counts.micro.items():
            loop = around.holding(name := self._micro(micro)[0].name)
            if loop is not None:
                cycles += times * self.limits.cycles(around.once(loop, [_calling(name)])[0])
                panels.add(around.around(loop))
        passes = [self.limits.cycles(around.once(panel)[0]) for panel in panels if panel is not None]
        return cycles + self.counts.panels * max(passes, default=0.0)

    def _streaming(self) -> float:
        """Cycles that what micro-kernels read and write beyond L2 takes at the rate of where it is. Stores read their
        line first."""
        home, found, case, unit = self.limits.rate(self.home), self.counts, self.case, self.unit
        words = found.words
        stream = 2 * self.c_bytes / home
        if not (found.copied_a or found.packed_a):
            stream += self.a_bytes / home
        if not found.packed_b:
            stream += self.b_bytes / home if case.b != "cold" else self.b_bytes / self.limits.rate("memory")
        waiting = min(words["block_rows"], case.m) * min(words["item_columns"], case.n) * unit.acc.bytes
        tiles = 2 * case.m * case.n * unit.acc.bytes * (self.slabs - 1)  # left, and resumed
        stream += tiles / self.limits.rate(self.limits.level(waiting + self.block_bytes + self.panel_bytes))
        again = self.limits.level(self.b_bytes + self.block_bytes)
        return stream + max(0.0, found.passes - 1) * self.b_bytes / self.limits.rate(again)

    def _micro(self, micro: Micro) -> tuple[Function, Loop]:
        unit = self.unit
        function = self.code[f"{self.kernel.name}_{micro.rows * unit.m}x{micro.columns * unit.n}x{micro.panels}"]
        loop = function.product_loop()
        assert loop is not None, f"{function.name} multiplies nothing"
        return function, loop


def _at(function: Function, loop: Loop) -> Visit:
    return lambda block: block is function.blocks[loop.head]


def _calling(name: str) -> Visit:
    return lambda block: any(name in line for line in block.lines)
