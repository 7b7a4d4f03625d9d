"""What a figure depends on besides the code: the machine, its load, the versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "llvmlite", "onnx", "torch", "onnxruntime", "openvino")
HOME = Path(__file__).parents[1]


def describe() -> dict[str, Any]:
    """The environment as one JSON-able dictionary."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
    }


def cpu_name() -> str:
    """The CPU's own name, with family and model where the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    fields: dict[str, str] = {}
    for key, value in lines:
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.machine()
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def versions() -> dict[str, str]:
    """Versions of the installed packages that take part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with "+" where files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(HOME)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return head.stdout.strip() + ("+" if changed.stdout else "") if head.returncode == 0 else ""


def header(environment: dict[str, Any]) -> str:
    """The environment as the lines a report starts with."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    load = " ".join(str(load) for load in environment["load"])
    return (
        f"{environment['cpu']}, {environment['cores']} cores, load {load}\n"
        f"Python {environment['python']}, {packages}\n"
        f"commit {environment['commit'] or '?'}, {environment['time']}"
    )
