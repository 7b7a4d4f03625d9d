"""Compiling, loading, and the object cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.native.cache import ObjectCache, object_key
from backends.native.library import Library, counters
from backends.native.target import host, named
from tests.backends.native.programs import SPEC, TestKernel, executable, program

KEY = "ab" * 32


def only_entry(folder: Path) -> Path:
    (path,) = folder.rglob("*.o")
    return path


def test_entries_come_back(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    assert cache.get(KEY) is None
    cache.put([(KEY, b"code")])
    assert cache.get(KEY) == b"code"
    assert (cache.hits, cache.misses) == (1, 1)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.o"]  # nothing left over


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"", lambda d: b"?" + d[1:]])
def test_damaged_entries_are_written_again(tmp_path: Path, damage: object) -> None:
    cache = ObjectCache(tmp_path)
    cache.put([(KEY, b"code")])
    path = only_entry(tmp_path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.get(KEY) is None
    cache.put([(KEY, b"code")])
    assert cache.get(KEY) == b"code"


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=3000)
    keys = [f"{i:02d}" * 32 for i in range(6)]
    for i, key in enumerate(keys):
        cache.put([(key, bytes(1000 - 40))])
        os.utime(cache._path(key), ns=(i * 10**9, i * 10**9))
    assert [key for key in keys if cache.get(key) is not None] == keys[-3:]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = ObjectCache(blocked)
    cache.put([(KEY, b"code")])
    assert cache.get(KEY) is None


def test_keys_tell_targets_and_contents_apart() -> None:
    keys = {object_key(host(), "a"), object_key(host(), "b"), object_key(named("generic"), "a")}
    keys |= {object_key(host(), "a", "b"), object_key(host(), "ab")}
    keys |= {object_key(replace(host(), vector=8), "a"), object_key(replace(host(), streaming=8), "a")}
    assert len(keys) == 7


def test_kernels_are_compiled_once_per_process_and_loaded_from_disk(tmp_path: Path) -> None:
    cache, kernel = ObjectCache(tmp_path), TestKernel(spins=77)
    before = (counters.compiled, counters.cached)
    first = Library(host())
    first.load([(kernel, SPEC)], cache)
    first.load([(kernel, SPEC)], cache)
    assert (counters.compiled, counters.cached) == (before[0] + 1, before[1])
    Library(host()).load([(kernel, SPEC)], cache)  # as another process would
    assert (counters.compiled, counters.cached) == (before[0] + 1, before[1] + 1)
    only_entry(tmp_path).write_bytes(b"garbage")
    Library(host()).load([(kernel, SPEC)], cache)
    assert counters.compiled == before[0] + 2


def test_cached_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(5.0)
    loaded = [Library(host()) for _ in range(2)]  # as two processes would; each outlives the code it runs
    for each in loaded:
        monkeypatch.setattr("backends.native.prepare.library", lambda target, each=each: each)
        run = executable(program(5), TestKernel(spins=78), cache_dir=tmp_path)
        assert np.array_equal(run.run([x, np.array([3.0])])[0], 3 * x)
    assert run.statistics().kernels_cached >= 1


def test_no_cache_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    executable(program(5), TestKernel(spins=79), cache_dir=None)
    assert list(tmp_path.rglob("*")) == []
