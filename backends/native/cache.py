"""The on-disk cache of object files: content-addressed, checksummed, written by atomic rename, bounded in size.

An entry is MAGIC, the SHA-256 of its payload, the payload. Anything else (a torn write, another format) counts as
missing and is written again. Failing to write is no error: a cache may be read-only or full.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

import compiler
from backends.native.target import Target

MAGIC = b"SANSUAN1"
DEFAULT_LIMIT = 256 << 20  # bytes
_CHECKSUM = hashlib.sha256().digest_size


class ObjectCache:
    """Object files by key in `folder`, at most `limit` bytes: the least recently used go first."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self.hits = self.misses = 0

    def get(self, key: str) -> bytes | None:
        """The entry of that key, None where there is none that is whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            self.misses += 1
            return None
        checksum, payload = data[len(MAGIC) : len(MAGIC) + _CHECKSUM], data[len(MAGIC) + _CHECKSUM :]
        if not data.startswith(MAGIC) or hashlib.sha256(payload).digest() != checksum:
            self.misses += 1
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self.hits += 1
        return payload

    def put(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Write entries, then forget the oldest beyond the limit."""
        with contextlib.suppress(OSError):
            for key, payload in entries:
                self._write(self._path(key), MAGIC + hashlib.sha256(payload).digest() + payload)
            self._trim()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.o"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _trim(self) -> None:
        found = []
        for path in self.folder.glob("*/*.o"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


def object_key(target: Target, *parts: str) -> str:
    """The cache key of code generated for `target` from what `parts` say, by these sources and this LLVM."""
    lengths = (target.vector, target.streaming, target.l1, target.l2, target.l3)
    text = "\0".join([generator_digest(), target.triple, target.cpu, target.feature_string, *map(str, lengths), *parts])
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def generator_digest() -> str:
    """Stands for everything that decides what code a spec becomes: the sources of both packages, and LLVM."""
    digest = hashlib.sha256(f"{llvmlite.__version__} {llvm.llvm_version_info}".encode())
    for root in (Path(compiler.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


# Now, not when first asked: sources edited while a process runs must not stand for the code it imported.
generator_digest()
