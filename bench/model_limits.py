"""What a machine's limits make of instructions and of bytes: cycles."""

from __future__ import annotations

from dataclasses import dataclass

from bench.model_code import Mix
from bench.model_machines import Machine, Rates

STORED = 32  # bytes of a tile that one entry of a machine's window stores
ROOMY = 0.8  # of a cache that a working set may fill and still be found there


@dataclass(frozen=True)
class Limits:
    """One core's, while `cores` of the machine are busy."""

    machine: Machine
    cores: int

    def of(self, mix: Mix, rates: Rates | None = None) -> dict[str, float]:
        """Cycles by resource; `rates`: those of where products are made, unless others are given. A load of several
        registers is one instruction and all their bytes: a core may issue few and yet be given much."""
        rates = rates or self.machine.inside
        read = max(mix.loads / rates.loads, mix.load_bytes / rates.load_bytes) + mix.prefetches / rates.prefetches
        return {
            "loads": max(read, mix.store_bytes / rates.store_bytes),
            "front end": mix.instructions / rates.issue,
            "vectors": mix.vectors / rates.vectors,
        }

    def cycles(self, mix: Mix, rates: Rates | None = None) -> float:
        """Of the scarcest resource."""
        return max(self.of(mix, rates).values())

    def packing(self, mix: Mix) -> float:
        """Cycles where operands are packed."""
        return self.cycles(mix, self.machine.outside)

    def overlapping(self, mix: Mix) -> float:
        """The share of instructions between products that is in the machine's window together with products before
        them: what exceeds the window begins only as those are done, and the next products wait for it."""
        size = mix.instructions + mix.store_bytes / STORED
        return min(self.machine.window / size, 1.0) if size else 1.0

    def level(self, size: float) -> str:
        """The first level that holds so many bytes."""
        for name, capacity in self.machine.capacities(self.cores).items():
            if size <= ROOMY * capacity:
                return name
        return "memory"

    def rate(self, level: str) -> float:
        """Bytes a cycle."""
        machine = self.machine
        rates = {"L1": machine.inside.load_bytes, "L2": machine.l2_bytes, "L3": machine.l3_bytes}
        return rates.get(level) or machine.memory_bytes(self.cores)

    def late(self, level: str) -> float:
        """Cycles a byte beyond what load ports take anyway, of what is not in L1."""
        return 0.0 if level == "L1" else 1 / self.rate(level)
