"""What a machine offers: triple, CPU, features, caches, cores. Frozen, passed as an argument, never looked up twice."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Target:
    """A machine kernels are generated for. Cache sizes in bytes (l3 is what one core may use), `vector` the widest
    vector register in bytes, `features` LLVM feature names without sign."""

    name: str
    triple: str
    cpu: str
    features: frozenset[str]
    vector: int
    l1: int
    l2: int
    l3: int
    cores: int

    def has(self, *features: str) -> bool:
        """Whether every feature is there."""
        return self.features.issuperset(features)

    @property
    def feature_string(self) -> str:
        """LLVM's form of the feature set."""
        return ",".join(f"+{feature}" for feature in sorted(self.features))


@lru_cache(maxsize=1)
def host() -> Target:
    """This machine."""
    features = frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    vector = 64 if "avx512f" in features else 32 if "avx2" in features else 16
    return Target(
        name="host",
        triple=llvm.get_process_triple(),
        cpu=llvm.get_host_cpu_name(),
        features=features,
        vector=vector,
        l1=_cache_size(1, 32 << 10),
        l2=_cache_size(2, 512 << 10),
        l3=_cache_size(3, 4 << 20),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _cache_size(level: int, otherwise: int) -> int:
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind = (index / "type").read_text().strip()
            if int((index / "level").read_text()) == level and kind != "Instruction":
                return int((index / "size").read_text().strip().rstrip("K")) << 10
        except (OSError, ValueError):
            continue
    return otherwise
