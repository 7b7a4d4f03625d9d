"""What is found out about machines: quotas, names, what runs here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from backends.native import target as machine_target
from backends.native.jit import Engine
from backends.native.target import host, named, names, usable_cores
from compiler.errors import TargetError

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fake_root(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n1:memory:/y\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_usable_cores(tmp_path: Path, files: dict[str, str], quota: int | None) -> None:
    assert usable_cores(fake_root(tmp_path, files)) == (AFFINITY if quota is None else min(AFFINITY, quota))


def test_every_name_is_a_target_of_that_name() -> None:
    for name in names():
        assert named(name).name == name
        assert name in str(named(name))
    assert named(host()) is host()


def test_a_target_held_to_a_family_has_that_family_as_its_best() -> None:
    usable = [isa for isa, (_, missing) in host().unit_families.items() if not missing]
    usable = [isa for isa in usable if isa == "generic" or f"host-{isa}" in names()]  # not what comes with a better one
    held = {isa: named("generic" if isa == "generic" else f"host-{isa}") for isa in usable}
    assert {target.name for target in held.values()} <= set(names())
    baseline = {"aarch64": "neon"}.get(host().architecture, "generic")
    for isa, target in held.items():
        assert target.runs_here
        best = next(found for found, (_, missing) in target.unit_families.items() if not missing)
        assert best == (baseline if isa == "generic" else isa)


@pytest.mark.parametrize("name", ["", "pentium", "HOST"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(TargetError, match="expected one of host"):
        named(name)


def test_what_this_machine_can_run() -> None:
    assert host().runs_here
    assert named("generic").runs_here
    lacking = replace(host(), name="richer", features=host().features | {"warp-drive"})
    assert lacking.missing_here == "warp-drive"
    with pytest.raises(TargetError, match=r"richer.*lacks warp-drive.*target='host'"):
        Engine(lacking)


def test_code_of_another_architecture_is_refused() -> None:
    other = named("aarch64" if host().architecture != "aarch64" else "x86-64-v3")
    assert not other.runs_here
    with pytest.raises(TargetError, match="architecture"):
        Engine(other)


def test_code_for_vectors_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where instructions do not say it, code for 256 bits would write beyond its operands on registers of 512."""
    own, wide, streaming = (named(name) for name in ("armv8.2-sve512", "armv8.4-sve256", "armv9-sme"))
    here = replace(wide, features=wide.features | streaming.features, vector=64, streaming=32)
    monkeypatch.setattr(machine_target, "host", lambda: here)
    assert own.runs_here and named("armv8.6").runs_here
    assert wide.missing_here == "vectors of 256 bits: its own have 512"
    assert streaming.missing_here == "vectors of 512 bits in streaming mode: its own have 256"


def test_units_say_why_they_are_not_usable() -> None:
    generic = named("generic")
    assert "" in generic.units.values()
    lacking = {name: reason for name, reason in generic.units.items() if reason}
    assert all(reason.startswith("needs ") for reason in lacking.values())
    families = {isa: missing for isa, (_, missing) in generic.unit_families.items()}
    assert all(f"unit {isa}: {f'needs {missing}' if missing else 'usable'};" in str(generic)
               for isa, missing in families.items())  # fmt: skip
    assert {f"needs {missing}" for missing in families.values() if missing} <= set(lacking.values())


def test_a_family_that_is_there_in_part_is_usable() -> None:
    """A core may have the tiles of Arm's streaming mode without their products of FP64."""
    whole = named("armv9-sme")
    part = replace(whole, features=whole.features - {"sme-f64f64"})
    operands, missing = part.unit_families["sme"]
    assert operands.startswith("float32, ") and operands.endswith("; float64 needs sme-f64f64") and not missing
    assert "unit sme: usable; float32" in str(part)
    assert ";" not in whole.unit_families["sme"][0]
    assert named("armv8.6").unit_families["sme"][1] == "sme"


def test_caches_and_cores_are_plausible() -> None:
    machine = host()
    assert 4 << 10 <= machine.l1 <= machine.l2
    assert machine.l3 >= 0 and machine.last_level in (machine.l2, machine.l3)
    assert 1 <= machine.cores <= AFFINITY
