"""The package itself on an emulated Arm machine: an Arm Python with what it depends on, and programs compiled and run
there, in one process, code and all.

`make emulators` fetches the dependencies with pip as this machine has it, and the C++ library from the archive that
`aarch64_install` uses, into a folder named after what was asked for; it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.emulation import aarch64_install
from tests.emulation.aarch64_install import BUILD, ROOT

HOME = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("aarch64_package_worker.py")
LIBRARIES = ("libstdc++6", "libgcc-s1")  # what wheels expect of the system
PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)), "manylinux2014_aarch64")
MINUTES = 30  # after which a process is taken to hang


@dataclass(frozen=True)
class Job:
    """A program to compile and run there. `model`: NAME of the files NAME.onnx and NAME.npz, its inputs by number;
    `precision` as runtime.compile takes it, or the name of a policy file; `apart`: in a forked child, which leaves
    nothing but what it cached."""

    name: str
    model: str
    precision: str | None = None
    threads: int = 1
    runs: int = 2
    apart: bool = False


@dataclass(frozen=True)
class Report:
    """What came of it: `jobs` by name, as the worker describes them, `machine` what the package says it runs on."""

    jobs: dict[str, dict[str, Any]]
    machine: dict[str, Any]
    folder: Path

    def outputs(self, name: str) -> list[np.ndarray]:
        """The outputs of a job's first run, which the others repeat."""
        with np.load(self.folder / f"{name}.out.npz") as file:
            return [file[key] for key in sorted(file.files)]


def missing() -> str:
    """What there is not, '' if nothing."""
    return aarch64_install.missing() or ("" if folder().exists() else "the dependencies for an Arm Python")


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where dependencies of these versions are, or will be."""
    python = aarch64_install.python()
    asked = "\0".join([python.name if python else "", *dependencies(), (HOME / "constraints.txt").read_text()])
    return BUILD / f"aarch64-packages-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def dependencies() -> list[str]:
    """What the package requires, as pip takes it."""
    found: list[str] = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def install() -> None:
    """Fetch what is missing. Raises RuntimeError with what apt or pip says."""
    python = aarch64_install.python()
    if not python:
        raise RuntimeError("the Arm Python is missing")
    with tempfile.TemporaryDirectory(dir=BUILD) as temporary:
        whole = Path(temporary) / "whole"
        archive = aarch64_install.Archive(Path(temporary))
        unpacked = archive.unpacked([f"{name}:arm64" for name in LIBRARIES], Path(temporary) / "root")
        (whole / "lib").mkdir(parents=True)
        for library in unpacked.glob("**/*.so.?"):
            shutil.copy(library, whole / "lib")
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:",
            f"--target={whole / 'site'}", f"--python-version={python.name.removeprefix('python')}",
            *(f"--platform={platform}" for platform in PLATFORMS), "-c", str(HOME / "constraints.txt"), *dependencies(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip failed: {done.stderr.strip()[-500:]}")
        names = ", ".join(re.split(r"\W", name)[0] for name in dependencies())
        imported = _python(["-c", f"import {names}"], whole)  # which also leaves their bytecode
        if imported.returncode:
            raise RuntimeError(f"they cannot be imported: {imported.stderr.strip()[-500:]}")
        for old in BUILD.glob("aarch64-packages-*"):
            shutil.rmtree(old, ignore_errors=True)
        os.replace(whole, folder())


def run(jobs: Sequence[Job], where: Path, cpu: str) -> Report:
    """Run jobs on the models in a folder, one after the other in one process, which keeps its cache in that folder.
    Raises AssertionError with what the process said if it fails."""
    assert not missing(), missing()
    (where / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    done = _python([str(WORKER), str(where)], folder(), cpu, XDG_CACHE_HOME=str(where / "cache"))
    assert done.returncode == 0, f"the emulated process ended with {done.returncode}: {done.stderr[-3000:]}"
    said = json.loads((where / "report.json").read_text())
    return Report(said["jobs"], said["machine"], where)


def _python(
    arguments: Sequence[str], packages: Path, cpu: str = "max", **variables: str
) -> subprocess.CompletedProcess[str]:
    """The Arm Python with those arguments, on that processor, with the dependencies of a folder."""
    environment = {
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{packages / 'site'}:{HOME}",
        **variables,
    }
    # The emulator itself must not look into the folder of libraries.
    libraries = ("-E", f"LD_LIBRARY_PATH={packages / 'lib'}")
    parts = (aarch64_install.emulator(), "-cpu", cpu, "-L", ROOT, *libraries, aarch64_install.python(), *arguments)
    return subprocess.run(
        list(map(str, parts)), capture_output=True, text=True, check=False, env=environment, timeout=60 * MINUTES,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )  # fmt: skip


if __name__ == "__main__":
    if not aarch64_install.missing() and missing():  # without an emulator, its installer has said so
        try:
            install()
        except RuntimeError as error:
            said = re.sub(r"\S+://\S+", "...", str(error))
            print(f"tests of the package under emulation will skip, without {missing()}: {said}", file=sys.stderr)
