"""Every step of the probe for AMX on simulated machines, and what a target says of features it is refused."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import llvmlite.binding as llvm
import pytest

from backends.native import amx_probe, target
from backends.native.amx_probe import FEATURES, Steps, probe
from backends.native.units import select
from compiler.dtypes import bfloat16, float32

TILE, BF16, INT8, FP16, OSXSAVE = 1 << 24, 1 << 22, 1 << 25, 1 << 21, 1 << 27
LEAVES = {
    (0, 0): (0x20, 0, 0, 0), (1, 0): (0, 0, OSXSAVE, 0), (7, 0): (1, 0, 0, TILE | BF16 | INT8), (7, 1): (FP16, 0, 0, 0),
    (0x1D, 0): (1, 0, 0, 0), (0x1D, 1): (1024 << 16 | 8192, 8 << 16 | 64, 16, 0),
}  # fmt: skip
MACHINE = Steps(lambda leaf, sub: LEAVES[leaf, sub], lambda: 0x602E7, lambda: 0, lambda: True)


def machine(**leaves: tuple[int, int, int, int]) -> Steps:
    """One that answers other leaves, named leaf_subleaf in hexadecimal."""
    changed = LEAVES | {tuple(int(part, 16) for part in name[1:].split("_")): value for name, value in leaves.items()}
    return replace(MACHINE, cpuid=lambda leaf, sub: changed[leaf, sub])


def never() -> int:
    raise AssertionError("asked without leave")


def test_a_machine_with_everything_has_every_feature() -> None:
    assert probe(MACHINE) == (frozenset(FEATURES), "")


def test_only_what_is_named_is_found() -> None:
    assert probe(machine(l7_1=(0, 0, 0, 0))) == (frozenset(FEATURES) - {"amx-fp16"}, "")
    assert probe(machine(l7_0=(1, 0, 0, TILE | BF16))) == ({"amx-tile", "amx-bf16", "amx-fp16"}, "")


@pytest.mark.parametrize("leaves", [{"l7_0": (1, 0, 0, BF16 | INT8)}, {"l0_0": (6, 0, 0, 0)}])
def test_a_machine_without_tiles_is_asked_nothing_more(leaves: dict[str, tuple[int, int, int, int]]) -> None:
    steps = replace(machine(**leaves), xgetbv=never, permission=never, product=never)
    assert probe(steps) == (frozenset(), "")


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (replace(machine(l1_0=(0, 0, 0, 0)), xgetbv=never, permission=never, product=never), "does not keep tiles"),
        (replace(MACHINE, xgetbv=lambda: 0x202E7, permission=never, product=never), "does not keep tiles"),
        (replace(MACHINE, permission=lambda: errno.ENOSPC, product=never), "does not permit tile data: ENOSPC"),
        (replace(MACHINE, permission=lambda: 9999, product=never), "does not permit tile data: 9999"),
        (replace(machine(l0_0=(0x1C, 0, 0, 0)), product=never), "no palette of tiles"),
        (replace(machine(l1D_0=(0, 0, 0, 0)), product=never), "no palette of tiles"),
        (replace(machine(l1D_1=(1024 << 16 | 4096, 4 << 16 | 64, 16, 0)), product=never), "none that is known"),
        (replace(MACHINE, product=lambda: False), "a product came out wrong"),
    ],
)
def test_each_refusal_has_its_reason_and_asks_nothing_more(steps: Steps, reason: str) -> None:
    named, refusal = probe(steps)
    assert named == set(FEATURES)
    assert reason in refusal


@pytest.fixture
def host_that_finds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Steps], target.Target]]:
    """host() of this process as if a machine answered like that, LLVM naming everything."""
    features = {**llvm.get_host_cpu_features(), "amx-tile": True, "amx-bf16": True, "amx-complex": True}
    monkeypatch.setattr(target.llvm, "get_host_cpu_features", lambda: features)

    def find(steps: Steps) -> target.Target:
        monkeypatch.setattr(amx_probe, "here", lambda: probe(steps))
        target.host.cache_clear()
        return target.host()

    yield find
    monkeypatch.undo()
    target.host.cache_clear()


def test_a_refused_feature_is_not_there_and_the_reason_is(host_that_finds: Callable[[Steps], target.Target]) -> None:
    here = host_that_finds(replace(MACHINE, permission=lambda: errno.ENOSPC))
    why = "the kernel does not permit tile data: ENOSPC"
    assert not any(feature.startswith("amx") for feature in here.features)
    assert here.units["amx_bf16_bfloat16"] == f"needs amx-tile ({why}), amx-bf16 ({why})"
    assert f"unit amx_bf16: needs amx-tile ({why})" in str(here)
    unit, reason = select(here, bfloat16, bfloat16, float32, True)
    assert unit.acc_type is not None
    assert why in reason
    assert why in target.named("x86-64-amx").missing_here
    assert not target.named("x86-64-v4").refused


def test_features_that_can_be_used_are_there(host_that_finds: Callable[[Steps], target.Target]) -> None:
    here = host_that_finds(MACHINE)
    assert here.has(*FEATURES, "amx-complex")
    assert not here.refused
    if here.architecture == "x86_64":
        assert here.units["amx_bf16_bfloat16"] == ""
        assert select(here, bfloat16, bfloat16, float32, True)[0].isa == "amx_bf16"
        assert select(here, bfloat16, bfloat16, float32)[0].acc_type is not None
        assert target.named("host-avx512").units["amx_bf16_bfloat16"].startswith("needs")


def test_this_machine_answers() -> None:
    """In a process of its own: a wrong question ends it."""
    code = (
        "from backends.native import amx_probe\n"
        "named, refusal = amx_probe.here()\n"
        "import platform\n"
        "if platform.machine() == 'x86_64':\n"
        "    steps = amx_probe.machine_steps()\n"
        "    _, b, c, d = steps.cpuid(0, 0)\n"
        "    print(b''.join(x.to_bytes(4, 'little') for x in (b, d, c)).decode(), steps.xgetbv() & 3, sorted(named))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if done.stdout:
        vendor, state, *_ = done.stdout.split()
        assert vendor.isalpha()
        assert state == "3"  # of x87 and SSE, which every system keeps
