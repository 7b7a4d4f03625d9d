"""What a machine offers: triple, CPU, features, caches, cores. Frozen, passed as an argument, never looked up twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from backends.native import amx_probe, arm_features
from backends.native.caches import cache_sizes
from compiler.errors import TargetError

_BASELINE = {"x86_64": ("x86-64", {"sse2"}), "aarch64": ("generic", {"neon"})}
_AVX2 = {
    "avx", "avx2", "bmi", "bmi2", "cmov", "crc32", "cx16", "cx8", "f16c", "fma", "fxsr", "lzcnt", "mmx", "movbe",
    "popcnt", "sahf", "sse", "sse2", "sse3", "sse4.1", "sse4.2", "ssse3", "xsave",
}  # fmt: skip
_AVX512 = _AVX2 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_AMX = _AVX512 | {"avx512bf16", "avx512vnni", *amx_probe.FEATURES}
_ARM_8_6 = {"neon", "dotprod", "i8mm", "bf16", "fullfp16"}
_SME = {"sme", "sme-f64f64"}
# Machines by name: triple, CPU, features, widest vector and vector of streaming mode in bytes. Any host can generate
# code for them.
_MACHINES = {
    "x86-64-v3": ("x86_64-unknown-linux-gnu", "x86-64-v3", _AVX2, 32, 0),
    "x86-64-v4": ("x86_64-unknown-linux-gnu", "x86-64-v4", _AVX512, 64, 0),
    "x86-64-amx": ("x86_64-unknown-linux-gnu", "x86-64-v4", _AMX, 64, 0),
    "aarch64": ("aarch64-unknown-linux-gnu", "generic", {"neon"}, 16, 0),
    "armv8.6": ("aarch64-unknown-linux-gnu", "generic", _ARM_8_6, 16, 0),
    # As Arm's Neoverse V1 and Fujitsu's A64FX (their technical reference manual and microarchitecture manual).
    "armv8.4-sve256": ("aarch64-unknown-linux-gnu", "generic", _ARM_8_6 | {"sve"}, 32, 0),
    "armv8.2-sve512": ("aarch64-unknown-linux-gnu", "generic", {"neon", "fullfp16", "sve"}, 64, 0),
    "armv9-sme": ("aarch64-unknown-linux-gnu", "generic", _ARM_8_6 | _SME, 16, 64),
    "armv9-sme2": ("aarch64-unknown-linux-gnu", "generic", _ARM_8_6 | _SME | {"sme2"}, 16, 64),
}
_FUTEX_CALL = {"x86_64": 202, "aarch64": 98}


@dataclass(frozen=True)
class Target:
    """A machine kernels are generated for. Cache sizes in bytes (l3 is what one core may use, 0 where there is none),
    `vector` the widest vector register in bytes, `features` LLVM feature names without sign, `cores` what this process
    may use, `refused` features the machine names but does not let this process use, each with the reason, `streaming`
    the vector register of Arm's streaming mode in bytes, 0 where there is none."""

    name: str
    triple: str
    cpu: str
    features: frozenset[str]
    vector: int
    l1: int
    l2: int
    l3: int
    cores: int
    refused: tuple[tuple[str, str], ...] = ()
    streaming: int = 0

    def has(self, *features: str) -> bool:
        """Whether every feature is there."""
        return self.features.issuperset(features)

    def lacking(self, features: Iterable[str]) -> str:
        """Which of the features are not there, and where it is known why; '' if all are."""
        reasons = dict(self.refused)
        missing = (feature for feature in features if feature not in self.features)
        return ", ".join(f"{feature} ({reasons[feature]})" if feature in reasons else feature for feature in missing)

    @property
    def architecture(self) -> str:
        """The first part of the triple, for example x86_64."""
        return self.triple.split("-")[0]

    @property
    def feature_string(self) -> str:
        """LLVM's form of the feature set. What this process may not use goes, though the CPU of that name has it."""
        refused = ["-sve"] if self.architecture == "aarch64" and not self.has("sve") else []
        return ",".join([*(f"+{feature}" for feature in sorted(self.features)), *refused])

    @property
    def last_level(self) -> int:
        """Bytes that one core may use of the cache that is nearest to memory."""
        return self.l3 or self.l2

    @property
    def scale(self) -> int:
        """How many times 128 bits the registers have whose length instructions do not say; 0 where none are used."""
        scalable = self.architecture == "aarch64" and self.has("sve") and self.vector > 16
        return self.vector // 16 if scalable else 0

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run the code."""
        return not self.missing_here

    @property
    def missing_here(self) -> str:
        """What this machine lacks to run the code, '' if nothing."""
        here = host()
        if self.architecture != here.architecture:
            return f"the architecture {self.architecture}"
        if lacking := here.lacking(sorted(self.features)):
            return lacking
        # Code that is told another length than its vectors have writes beyond its operands.
        if self.scale and self.vector != here.vector:
            return f"vectors of {8 * self.vector} bits: its own have {8 * here.vector}"
        if self.streaming not in (0, here.streaming):
            return f"vectors of {8 * self.streaming} bits in streaming mode: its own have {8 * here.streaming}"
        return ""

    @property
    def units(self) -> Mapping[str, str]:
        """The matrix units there are by name, best first: '' for those this target runs, else what it lacks."""
        from backends.native.units import known

        reasons = {unit.name: unit.missing(self) for unit in known(self)}
        return {name: f"needs {reason}" if reason else "" for name, reason in reasons.items()}

    @property
    def spin_hint(self) -> tuple[str, tuple[int, ...]]:
        """The intrinsic (name, i32 arguments) to call while waiting in a loop; ('', ()) if there is none."""
        hints = {"x86_64": ("llvm.x86.sse2.pause", ()), "aarch64": ("llvm.aarch64.hint", (1,))}
        return hints.get(self.architecture, ("", ()))

    @property
    def futex_call(self) -> int:
        """The number of Linux' futex system call, 0 where threads cannot park on one."""
        return _FUTEX_CALL.get(self.architecture, 0) if "linux" in self.triple else 0

    @property
    def unit_families(self) -> Mapping[str, tuple[str, str]]:
        """The instruction sets units are made of, best first: what their units multiply (where this target runs only
        some of them, also what the others need), and what is missing ('' where it runs any)."""
        from backends.native.units import known

        families: dict[str, dict[str, list[str]]] = {}
        for unit in known(self):
            pair = f"{unit.a}" if unit.a == unit.b else f"{unit.a} x {unit.b}"
            families.setdefault(unit.isa, {}).setdefault(unit.missing(self), []).append(pair)
        return {isa: _family(operands) for isa, operands in families.items()}

    def __str__(self) -> str:
        caches = " / ".join(f"{size >> 10} KiB" for size in (self.l1, self.l2, self.l3) if size)
        lines = (
            f"{self.name}: {self.cpu} ({self.triple}), {self.cores} cores, {8 * self.vector}-bit vectors",
            f"caches {caches}",
            f"features: {' '.join(sorted(self.features))}",
            *(
                f"unit {isa}: {f'needs {missing}' if missing else 'usable'}; {operands}"
                for isa, (operands, missing) in self.unit_families.items()
            ),
        )
        return "\n".join(lines)


def _family(operands: Mapping[str, list[str]]) -> tuple[str, str]:
    """A family's entry in `unit_families`, from what units multiply by what they miss."""
    if "" not in operands:
        return ", ".join(pair for pairs in operands.values() for pair in pairs), min(operands, key=len)
    rest = (f"{', '.join(pairs)} needs {missing}" for missing, pairs in operands.items() if missing)
    return "; ".join((", ".join(operands[""]), *rest)), ""


@lru_cache(maxsize=1)
def host() -> Target:
    """This machine."""
    known = {name for name, on in llvm.get_host_cpu_features().items() if on and not name.startswith("sve")}
    known |= arm_features.detected()
    tiles, refusal = amx_probe.here()
    features = known | tiles if tiles and not refusal else {f for f in known if not f.startswith("amx")}
    l1, l2, l3 = cache_sizes()
    return Target(
        name="host",
        triple=llvm.get_process_triple(),
        cpu=llvm.get_host_cpu_name(),
        features=frozenset(features),
        vector=64 if "avx512f" in features else 32 if "avx2" in features else _usable(arm_features.vector_bytes()),
        l1=l1,
        l2=l2,
        l3=l3,
        cores=usable_cores(),
        refused=tuple((feature, refusal) for feature in sorted(tiles)) if refusal else (),
        streaming=arm_features.streaming_bytes(),
    )


def named(name: str | Target) -> Target:
    """The target called `name`: host, host-<family> (this machine without the matrix units that are better than that
    family's; host-avx2 is this machine held to AVX2), generic (what every machine of this architecture has), or a
    machine to generate code for. Raises TargetError for another name."""
    if isinstance(name, Target):
        return name
    here = host()
    if name == "host":
        return here
    if name == "generic":
        cpu, features = _BASELINE.get(here.architecture, ("generic", set[str]()))
        return replace(here, name=name, cpu=cpu, features=frozenset(features), vector=16, streaming=0)
    if name == "host-avx2" and here.has(*_AVX2):
        kept = frozenset(f for f in here.features if not f.startswith(("avx512", "avx10", "amx")))
        return replace(here, name=name, cpu="x86-64-v3", features=kept, vector=32)
    if name in held_to_families(here):
        return held_to_families(here)[name]
    if name in _MACHINES:
        triple, cpu, features, vector, streaming = _MACHINES[name]
        return replace(here, name=name, triple=triple, cpu=cpu, features=frozenset(features), vector=vector,
                       streaming=streaming, refused=())  # fmt: skip
    raise TargetError(f"target {name!r} is unknown here; expected one of {', '.join(names())}")


def names() -> tuple[str, ...]:
    """The names `named` knows on this machine."""
    here = host()
    held = dict.fromkeys((*held_to_families(here), *(("host-avx2",) if here.has(*_AVX2) else ())))
    return ("host", *held, "generic", *_MACHINES)


@lru_cache(maxsize=8)
def held_to_families(here: Target) -> Mapping[str, Target]:
    """By name, `here` without what only families of units better than one need: its products then run on that family
    where it has a unit for them."""
    from backends.native.units import known

    needs: dict[str, set[str]] = {}
    units = [unit for unit in known(here) if unit.isa != "generic"]
    for unit in units:
        needs.setdefault(unit.isa, set()).update(unit.requires)
    held: dict[str, Target] = {}
    families = list(needs)
    for place, family in enumerate(families):
        if family == "avx2" or all(unit.missing(here) for unit in units if unit.isa == family):
            continue
        rest = set().union(*(needs[f] for f in families[place:]))
        more = [needs[better] - needs[family] for better in families[:place]]
        if not all(more):  # a better one runs wherever this one does
            continue
        features, cpu, vector = here.features.difference(*((own - rest) or own for own in more)), here.cpu, here.vector
        # Nor what else works on registers that are gone.
        if vector == 64 and here.has("avx512f") and "avx512f" not in features:
            features = frozenset(f for f in features if not f.startswith(("avx512", "avx10", "amx")))
            cpu, vector = "x86-64-v3", 32
        if here.has("sve") and "sve" not in features:
            features, vector = frozenset(f for f in features if not f.startswith("sve")), 16
        name = f"host-{family}"
        held[name] = replace(here, name=name, cpu=cpu, features=features, vector=vector)
    return held


def usable_cores(root: Path = Path("/")) -> int:
    """How many CPUs affinity and the cgroup's quota (version 1 or 2) let this process use; at least 1.
    `root` is where /proc and /sys are looked for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """CPU quotas, in CPUs, of this process's cgroups and everything above them."""
    found: list[float] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                for group in _ancestors(root / mount, path):
                    quota, _, period = _text(group / "cpu.max").partition(" ")
                    found += _ratio(quota, period)
        elif "cpu" in controllers.split(","):
            for mount in (f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"):
                for group in _ancestors(root / mount, path):
                    found += _ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))
    return found


def _ancestors(mount: Path, path: str) -> list[Path]:
    # Inside a container the path may be the host's, invisible here: the mount point itself is then the group.
    parts = [part for part in path.strip().split("/") if part and part != ".."]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _ratio(quota: str, period: str) -> list[float]:
    try:
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except ValueError:  # "max", or no such file
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _usable(length: int) -> int:
    """The bytes of vectors to use where instructions do not say how long they are: LLVM wants powers of two."""
    return length if length > 16 and length & length - 1 == 0 else 16
