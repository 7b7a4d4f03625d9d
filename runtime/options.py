"""How programs run on this machine; the only module that reads the environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from backends.native.target import usable_cores

PLANS = 64  # input shapes a program remembers


@dataclass(frozen=True)
class Options:
    """What a program is run with: `threads` the most it uses, `cache_dir` where compiled kernels are kept (None:
    nowhere), `plans` how many input shapes it remembers, `tune` whether it measures how best to cut its products where
    nobody has on this machine."""

    threads: int
    cache_dir: Path | None
    plans: int = PLANS
    tune: bool = False

    @staticmethod
    def resolve(threads: int | None = None, cache: bool | str | os.PathLike[str] = True, tune: bool = False) -> Options:
        """Options from arguments, then the environment, then the machine.

        `threads` None: OMP_NUM_THREADS if set, else what affinity and the cgroup quota allow. `cache`: whether to
        keep compiled kernels on disk, or the folder to keep them in. Raises ValueError for a thread count below 1.
        """
        if threads is None:
            threads = _threads_of_environment() or usable_cores()
        if threads < 1:
            raise ValueError(f"threads: {threads}, expected at least 1 (None to use what the machine offers)")
        if cache is True:
            return Options(int(threads), _cache_folder(), tune=tune)
        return Options(int(threads), None if cache is False else Path(cache), tune=tune)


def _threads_of_environment() -> int | None:
    """OMP_NUM_THREADS (its first number where nested levels are listed); None if unset or no positive number."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def _cache_folder() -> Path | None:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():  # the XDG specification: a relative path is to be ignored
        return Path(named) / "sansuan"
    try:
        home = Path.home()
    except RuntimeError:  # no home folder: no cache
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "sansuan"
