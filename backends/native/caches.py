"""Cache sizes as the operating system tells them: Linux' sysfs (Documentation/ABI/testing/sysfs-devices-system-cpu),
macOS' sysctl (hw.perflevel0, the fast cores)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from backends.native.arm_features import sysctl

UNKNOWN = (32 << 10, 512 << 10, 4 << 20)  # where nothing is told


def cache_sizes(root: Path = Path("/")) -> tuple[int, int, int]:
    """Bytes of L1 for data, of L2, and what one core may use of L3, 0 where there is none. `root` is where /sys is
    looked for."""
    found = _described(root)
    if not found and sys.platform == "darwin":
        found = described_by_name(sysctl)
    if not found:
        return UNKNOWN
    # Who describes an L2 would describe what is behind it.
    return found.get(1, UNKNOWN[0]), found.get(2, UNKNOWN[1]), found.get(3, 0 if 2 in found else UNKNOWN[2])


def described_by_name(value: Callable[[str], int]) -> dict[int, int]:
    """Sizes by level from what macOS' sysctl gives for names, 0 for those it does not know."""
    keys = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}
    found = {level: value(f"hw.perflevel0.{key}") for level, key in keys.items()}
    return {level: size for level, size in found.items() if size}


def _described(root: Path) -> dict[int, int]:
    """Sizes by level, for the first core."""
    found = {}
    for index in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = _text(index / "level"), _text(index / "size").rstrip("K")
        if level.isdigit() and size.isdigit() and _text(index / "type") != "Instruction":
            sharing = _cpus(_text(index / "shared_cpu_list")) if level == "3" else 1
            found[int(level)] = (int(size) << 10) // sharing
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cpus(ranges: str) -> int:
    """How many CPUs a list such as 0-3,8 names; at least 1."""
    total = 0
    for part in filter(None, ranges.split(",")):
        low, _, high = part.partition("-")
        total += int(high or low) - int(low) + 1
    return max(total, 1)
