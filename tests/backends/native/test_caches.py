"""Cache sizes: what Linux and macOS describe, and what is taken where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.native import caches
from backends.native.caches import UNKNOWN, cache_sizes, described_by_name

DATA = {"level": "1", "type": "Data", "size": "48K", "shared_cpu_list": "0"}
CODE = {"level": "1", "type": "Instruction", "size": "64K", "shared_cpu_list": "0"}
SECOND = {"level": "2", "type": "Unified", "size": "768K", "shared_cpu_list": "0-1"}
THIRD = {"level": "3", "type": "Unified", "size": "32768K", "shared_cpu_list": "0-3,8"}


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches.sys, "platform", "linux")


def root_of(path: Path, *indices: dict[str, str]) -> Path:
    """A file system that describes these caches."""
    for number, index in enumerate(indices):
        place = path / f"sys/devices/system/cpu/cpu0/cache/index{number}"
        place.mkdir(parents=True)
        for name, text in index.items():
            (place / name).write_text(f"{text}\n")
    return path


def test_sizes_are_those_described_and_a_core_has_its_part_of_l3(tmp_path: Path) -> None:
    found = cache_sizes(root_of(tmp_path, DATA, CODE, SECOND, THIRD))
    assert found == (48 << 10, 768 << 10, (32768 << 10) // 5)


def test_a_machine_that_describes_an_l2_and_nothing_behind_it_has_no_l3(tmp_path: Path) -> None:
    assert cache_sizes(root_of(tmp_path, DATA, SECOND)) == (48 << 10, 768 << 10, 0)


def test_what_is_not_described_is_not_taken_for_missing(tmp_path: Path) -> None:
    assert cache_sizes(tmp_path) == UNKNOWN
    broken = {**SECOND, "size": "unknown"}
    assert cache_sizes(root_of(tmp_path, DATA, broken)) == (48 << 10, *UNKNOWN[1:])


def test_names_of_macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"hw.perflevel0.l1dcachesize": 128 << 10, "hw.perflevel0.l2cachesize": 16 << 20}
    assert described_by_name(lambda name: told.get(name, 0)) == {1: 128 << 10, 2: 16 << 20}
    monkeypatch.setattr(caches.sys, "platform", "darwin")
    monkeypatch.setattr(caches, "sysctl", lambda name: told.get(name, 0))
    assert cache_sizes(tmp_path) == (128 << 10, 16 << 20, 0)
