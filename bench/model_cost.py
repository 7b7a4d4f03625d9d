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
from bench.model_code import Function, Loop, Mix, Visit, emitted, finishes, mix_of
from bench.model_counts import Counts, Micro, Packed, counts
from bench.model_machines import Machine, Rates

# What a product's cycles are spent on. The first is what would remain of a perfect program.
PARTS = ("multiplier", "tails", "loads", "front end", "vectors", "results", "control", "packing", "bandwidth", "entry")
STORED = 32  # bytes of a tile that one entry of a machine's window stores
ROOMY = 0.8  # of a cache that a working set may fill and still be found there


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
        self.machine, self.case, self.kernel, self.counts, self.cores = machine, case, kernel, found, busy
        self.unit, self.code = kernel.matrix_unit, _code(kernel, machine.target)
        unit, words = self.unit, found.words
        self.a_bytes = case.m * case.k * unit.a.bytes
        self.b_bytes = case.n * case.k * unit.b.bytes
        result = kernel.spec.epilogue[0].dtype if kernel.spec.epilogue else unit.acc
        self.c_bytes = case.m * case.n * result.bytes
        self.block_bytes = min(words["block_rows"], case.m) * case.k * unit.left.bytes
        self.panel_bytes = kernel.width * min(words["depth"], max(case.k, 1)) * unit.right.bytes
        self.home = self._level(self.a_bytes + self.b_bytes + self.c_bytes)

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
                if not self._overlaps(between := self._between(micro)):
                    parts["results"] += times * (self._cycles(between) + self.machine.latency)
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
        parts["packing"] = self._packing()
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
        limits = self._limits(mix)
        left = micro.rows * unit.m * unit.k * unit.left.bytes
        right = micro.panels * micro.columns * unit.n * unit.k * unit.right.bytes
        own = micro.rows * unit.m * micro.depth * unit.left.bytes
        beyond = 0.0
        near = self._level(own + self.panel_bytes * micro.panels)
        if self.counts.panels > self.counts.blocks:  # rows of A meet several panels, the block in between
            beyond += left * self._late(self._level(self.block_bytes + self.panel_bytes))
        if micro.m < min(self.counts.words["block_rows"], self.case.m):  # a panel meets several rows
            beyond += right * self._late(near)
        limits["caches"] = beyond
        limits["multiplier"] = micro.rows * micro.columns * micro.panels * machine.product_cycles(unit)
        return limits

    def _limits(self, mix: Mix, rates: Rates | None = None) -> dict[str, float]:
        rates = rates or self.machine.inside
        read = max(mix.loads / rates.loads, mix.load_bytes / rates.load_bytes) + mix.prefetches / rates.prefetches
        return {
            "loads": max(read, mix.store_bytes / rates.store_bytes),
            "front end": mix.instructions / rates.issue,
            "vectors": mix.vectors / rates.vectors,
        }

    def _cycles(self, mix: Mix, rates: Rates | None = None) -> float:
        return max(self._limits(mix, rates).values())

    def _beside(self, micro: Micro) -> dict[str, float]:
        """Cycles by resource of what a micro-kernel does besides its steps, where products are made meanwhile: it ends
        and another begins within the machine's window, and rows of the tile before are finished between steps."""
        between = self._between(micro)
        rows = self._level(self.counts.words["block_rows"] * self.kernel.width * self.unit.acc.bytes)
        mix, caches = between if self._overlaps(between) else Mix(), 0.0
        if micro.resumes or not micro.last:
            caches += (between.load_bytes + between.store_bytes) * self._late(rows)
        if micro.last and not micro.direct:
            runs = -(-micro.depth // (self.unit.k * RUN))
            advance = self.code[f"{self.kernel.name}_advance"].once()[0]
            mix += sum(self._finishing(micro), Mix()) + (advance + self._run(micro)) * runs
        if micro.limited:
            caches += 2 * self.machine.enter
        return {**self._limits(mix), "caches": caches}

    def _overlaps(self, between: Mix) -> bool:
        """Whether products before and behind these instructions are in the machine's window together."""
        return between.instructions + between.store_bytes / STORED <= self.machine.window

    def _run(self, micro: Micro) -> Mix:
        """What a micro-kernel does between two runs of steps."""
        function, loop = self._micro(micro)
        outer = function.around(loop)
        return function.once(outer, [_at(function, loop)])[0] if outer else Mix()

    def _around(self, micro: Micro) -> float:
        """Cycles of a micro-kernel besides its steps, and of the epilogue behind it."""
        cycles = self._cycles(self._between(micro)) + self.machine.latency
        if micro.limited:
            cycles += 2 * self.machine.enter  # there and back
        return cycles + (self._epilogue(micro) if micro.last and not micro.direct else 0.0)

    def _between(self, micro: Micro) -> Mix:
        """What a micro-kernel does besides its steps."""
        unit = self.unit
        function, loop = self._micro(micro)
        visits = [_at(function, loop), *([finishes] if micro.direct else [])]
        mix, loops = function.once(None, visits)
        for other in loops:  # what else there is in loops are rows of tiles
            mix += mix_of(function.lines(other), function.streaming) * (0 if loop.body <= other.body else unit.m)
        if micro.resumes:
            size = micro.rows * micro.columns * unit.m * unit.n * unit.acc.bytes
            mix += Mix(load_bytes=size)
        return mix

    def _epilogue(self, micro: Micro) -> float:
        return sum(map(self._cycles, self._finishing(micro)))

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
        cycles = self._cycles(self.code[self.kernel.name].once()[0])
        inner = self.code.get(f"{self.kernel.name}_panels")  # where what works on tiles is a function of its own
        cycles += self._cycles(inner.once()[0]) * self.counts.blocks if inner else 0.0
        around = inner or self.code[self.kernel.name]
        panels = set()
        for micro, times in self.counts.micro.items():
            loop = around.holding(name := self._micro(micro)[0].name)
            if loop is not None:
                cycles += times * self._cycles(around.once(loop, [_calling(name)])[0])
                panels.add(around.around(loop))
        passes = [self._cycles(around.once(panel)[0]) for panel in panels if panel is not None]
        return cycles + self.counts.panels * max(passes, default=0.0)

    def _packing(self) -> float:
        """Cycles of copying and packing A, and of packing B: what instructions or traffic take, if that is longer."""
        unit, kernel, found = self.unit, self.kernel, self.counts
        left, right = unit.panels(kernel.shape.grid)
        axis = "k" if kernel.shape.copies_a else {"row": "k", "column": "x"}.get(kernel.spec.a_axis, "")
        total = self._panels("pack_a", found.packed_a, axis, left, unit.left.bytes, self.block_bytes)
        axis = {"row": "x", "column": "k"}.get(kernel.spec.b_axis, "")
        kept = self.b_bytes if found.words["b_step"] else self.panel_bytes
        total += self._panels("pack_b", found.packed_b, axis, right, unit.right.bytes, kept)
        if found.copied_a:
            copying = found.copied_a / unit.row_lanes * self._cycles(self._copies("copy_a")[0], self.machine.outside)
            total += max(copying, self._traffic(found.copied_a, unit.a.bytes, unit.left.bytes, self.block_bytes))
        return total

    def _panels(
        self, name: str, packed: Mapping[Packed, int], axis: str, panel: tuple[int, int], size: int, kept: float
    ) -> float:
        """Cycles of a panel packer. Along K it moves squares of registers, along the other side rows as wide as a
        panel, else elements; narrow panels and the end of K have loops of their own, with masks."""
        if not packed:
            return 0.0
        (width, depth), lanes = panel, min(self.unit.packing_lanes, panel[0])
        cycles = [self._cycles(mix, self.machine.outside) for mix in self._copies(name)]
        whole, narrow, end = cycles[0], cycles[min(1, len(cycles) - 1)], cycles[-1]
        once = self._cycles(self.code[f"{self.kernel.name}_{name}"].once()[0], self.machine.outside)
        working = elements = 0.0
        for (deep, is_narrow), times in packed.items():
            one = narrow if is_narrow else whole
            if axis == "k":
                steps, rest = divmod(deep, lanes * depth)
                passes = width // lanes * (steps * one + (end if rest else 0.0))
            else:
                passes = one * (-(-deep // depth) if axis == "x" else deep * width)
            working += times * (once + passes)
            elements += times * width * deep
        return max(working, self._traffic(elements, size, size, kept))

    def _copies(self, name: str) -> list[Mix]:
        """Passes through the innermost loops of a function that load and store, those that do most at once first."""
        function = self.code[f"{self.kernel.name}_{name}"]
        loops = [mix_of(function.lines(loop), function.streaming) for loop in function.innermost()]
        copies = [mix for mix in loops if mix.loads and mix.stores]
        return sorted(copies, key=lambda mix: -mix.store_bytes / mix.instructions)

    def _traffic(self, elements: float, read: int, written: int, kept: float) -> float:
        return elements * (read / self._rate(self.home) + written / self._rate(self._level(kept)))

    def _streaming(self) -> float:
        """Cycles that what micro-kernels read and write beyond L2 takes at the rate of where it is. Stores read their
        line first."""
        home, found = self._rate(self.home), self.counts
        stream = 2 * self.c_bytes / home
        if not (found.copied_a or found.packed_a):
            stream += self.a_bytes / home
        if not found.packed_b:
            stream += self.b_bytes / home if self.case.b != "cold" else self.b_bytes / self._rate("memory")
        again = self._level(self.b_bytes + self.block_bytes)
        return stream + max(0.0, found.passes - 1) * self.b_bytes / self._rate(again)

    def _micro(self, micro: Micro) -> tuple[Function, Loop]:
        unit = self.unit
        function = self.code[f"{self.kernel.name}_{micro.rows * unit.m}x{micro.columns * unit.n}x{micro.panels}"]
        loop = function.product_loop()
        assert loop is not None, f"{function.name} multiplies nothing"
        return function, loop

    def _level(self, size: float) -> str:
        for name, capacity in self.machine.capacities(self.cores).items():
            if size <= ROOMY * capacity:
                return name
        return "memory"

    def _rate(self, level: str) -> float:
        """Bytes a cycle."""
        machine = self.machine
        rates = {"L1": machine.inside.load_bytes, "L2": machine.l2_bytes, "L3": machine.l3_bytes}
        return rates.get(level) or machine.memory_bytes(self.cores)

    def _late(self, level: str) -> float:
        """Cycles a byte beyond what load ports take anyway, of what is not in L1."""
        return 0.0 if level == "L1" else 1 / self._rate(level)


def _at(function: Function, loop: Loop) -> Visit:
    return lambda block: block is function.blocks[loop.head]


def _calling(name: str) -> Visit:
    return lambda block: any(name in line for line in block.lines)
