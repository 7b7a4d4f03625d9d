"""Puts QEMU's user mode emulator and a small Arm Python into build/emulators: `make emulators`.

Both come from the Debian archive this machine is configured with, through a private apt state: nothing is installed,
nothing of the system changes. Where that does not work, tests say why they skip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build" / "emulators"
ROOT, EMULATOR = BUILD / "aarch64", BUILD / "qemu-aarch64"
NEWEST = BUILD / "newest"  # there once the archive has been asked for the best it has
OLDEST = 10  # earlier versions multiply bytes in tiles wrongly
BEST = 11  # from here on with the second version of SME, and SME without SVE
LATER = ("trixie-backports",)  # suites of releases after this machine's that may have it
PACKAGES = ("libc6", "libffi8", "zlib1g", "libexpat1")  # what the interpreter and its ctypes load


def version(emulator: Path | str) -> int:
    """The major version of an emulator, 0 if it does not run."""
    try:
        said = subprocess.run([str(emulator), "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    found = re.search(r"version (\d+)", said)
    return int(found[1]) if found else 0


@lru_cache(maxsize=1)
def emulator() -> Path | None:
    """The installed emulator, or one on the PATH that is new enough."""
    candidates = (str(EMULATOR), *filter(None, map(shutil.which, ("qemu-aarch64", "qemu-aarch64-static"))))
    return next((Path(path) for path in candidates if version(path) >= OLDEST), None)


def python() -> Path | None:
    """The Arm Python."""
    return next((path for path in sorted(ROOT.glob("usr/bin/python3.*")) if path.name.count(".") == 1), None)


def missing() -> str:
    """What there is not, '' if nothing."""
    parts = {f"qemu-aarch64 of version {OLDEST} or newer": emulator(), "an Arm Python": python()}
    return " and ".join(part for part, path in parts.items() if path is None)


def major(package: str) -> int:
    """The major version in a package's."""
    return int(re.sub(r"^\d+:", "", package).split(".")[0])


def complete() -> bool:
    """Whether there is nothing to fetch, and nothing better."""
    return not missing() and (version(emulator() or "") >= BEST or NEWEST.exists())


def install() -> None:
    """Fetch what is missing, and a better emulator if there is one. Raises RuntimeError with what apt says, or without
    it."""
    if not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))):
        raise RuntimeError("apt-get, apt-cache and dpkg-deb are needed to fetch them")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        archive = Archive(Path(folder))
        newest = archive.newest("qemu-user")
        if major(newest) > version(emulator() or ""):
            unpacked = archive.unpacked([f"qemu-user:{archive.native}={newest}"], Path(folder) / "q")
            os.replace(unpacked / "usr/bin/qemu-aarch64", EMULATOR)
            emulator.cache_clear()
        if python() is None:
            minimal = archive.interpreter()
            library = minimal.removesuffix("-minimal")
            names = (minimal, f"lib{library}-minimal", f"lib{library}-stdlib", *PACKAGES)
            unpacked = archive.unpacked([f"{name}:arm64" for name in names], Path(folder) / "root")
            if not (unpacked / "lib").exists():  # where archives know /usr/lib only
                (unpacked / "lib").symlink_to("usr/lib")
            shutil.rmtree(ROOT, ignore_errors=True)
            os.replace(unpacked, ROOT)
        NEWEST.touch()


class Archive:
    """The archive this machine is configured with, and its backports, for this architecture and Arm's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.native = self._run("dpkg", "--print-architecture").strip()
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        sources = folder / "archive.sources"
        sources.write_text(_sources(LATER))
        options = {
            "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-", "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder / "cache", "APT::Sandbox::User": "root", "Acquire::Retries": "0",
            "Acquire::http::Timeout": "20",
        }  # fmt: skip
        self.options = [f"-o{name}={value}" for name, value in options.items()]
        self.options += [f"-oAPT::Architectures::={name}" for name in (self.native, "arm64")]
        try:
            self._run("apt-get", *self.options, "-qq", "update")
        except RuntimeError:  # an archive without later suites
            sources.write_text(_sources(()))
            self._run("apt-get", *self.options, "-qq", "update")

    def newest(self, package: str) -> str:
        """The newest version of a package, at least OLDEST."""
        lines = self._run("apt-cache", *self.options, "madison", package).splitlines()
        versions = [line.split("|")[1].strip() for line in lines]
        new = [v for v in sorted(versions, key=major) if major(v) >= OLDEST]
        if not new:
            raise RuntimeError(
                f"the archive has {package} {', '.join(versions) or 'not at all'}, not {OLDEST} or newer"
            )
        return new[-1]

    def interpreter(self) -> str:
        """The package of the default Python's minimal interpreter."""
        said = self._run("apt-cache", *self.options, "depends", "python3-minimal:arm64")
        found = re.search(r"python3\.\d+-minimal", said)
        if not found:
            raise RuntimeError("the archive has no python3-minimal for arm64")
        return found[0]

    def unpacked(self, packages: list[str], target: Path) -> Path:
        """A folder with the contents of packages."""
        debs = target.with_name(f"{target.name}-debs")
        debs.mkdir()
        self._run("apt-get", *self.options, "-qq", "download", *packages, where=debs)
        for deb in debs.iterdir():
            self._run("dpkg-deb", "-x", str(deb), str(target))
        return target

    def _run(self, *command: str, where: Path | None = None) -> str:
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=where, env=environment)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
        return done.stdout


def _sources(later: tuple[str, ...]) -> str:
    """apt's sources in the form of stanzas: the release's own, its backports and `later` suites, from where this
    machine has them."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    wanted = " ".join((suite, f"{suite}-backports", *later))
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            suites = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
            if suites and suite in suites[1].split():
                return re.sub(r"^Suites:.*$", f"Suites: {wanted}", stanza, flags=re.MULTILINE) + "\n"
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))):
        for line in path.read_text().splitlines() if path.exists() else ():
            found = re.match(rf"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+{suite}\s+", line)
            if suite and found:
                signed = re.search(r"signed-by=(\S+)", found[1] or "")
                key = f"Signed-By: {signed[1]}\n" if signed else ""
                return f"Types: deb\nURIs: {found[2]}\nSuites: {wanted}\nComponents: main\n{key}"
    raise RuntimeError("apt has no source of this release")


if __name__ == "__main__":
    if not complete():
        try:
            install()
        except RuntimeError as error:
            if missing():
                print(f"tests under emulation will skip, without {missing()}: {error}", file=sys.stderr)
