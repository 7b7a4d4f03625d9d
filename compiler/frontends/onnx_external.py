"""External data: tensors kept in files beside the model, mapped into memory, and never from outside its folder.

The checks are those of the onnx package's Security notes (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489,
CVE-2026-34446 and 34447 are one bug again and again): a location is relative, has no `..`, is opened component by
component without following links, and is a regular file of one name; offset and length lie within it.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from compiler.errors import ModelError

_KEYS = ("location", "offset", "length", "checksum", "basepath")


class ExternalFiles:
    """The external data files of one model, each mapped once. `folder` is None for a model that came without one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._maps: dict[str, memoryview] = {}

    def payload(self, tensor: Any, nbytes: int, place: str) -> memoryview:
        """The bytes of a TensorProto with external data, expected to be `nbytes`. Raises ModelError where they lie
        outside the model's folder or outside the file."""
        entries = {entry.key: entry.value for entry in tensor.external_data if entry.key in _KEYS}
        location = entries.get("location", "")
        offset = _number(entries, "offset", 0, place)
        length = _number(entries, "length", nbytes, place)
        if length != nbytes:
            raise ModelError(
                f"{place}: external data of {length} bytes, expected {nbytes} for its type and shape; "
                "save the model again"
            )
        data = self._open(location, place)
        if offset + length > len(data):
            raise ModelError(
                f"{place}: external data at {offset}, {length} bytes, ends past the end of {location!r} "
                f"({len(data)} bytes); the file is cut short or belongs to another model"
            )
        return data[offset : offset + length]

    def _open(self, location: str, place: str) -> memoryview:
        if location not in self._maps:
            if self._folder is None:
                raise ModelError(
                    f"{place}: external data in {location!r}, but the model was given without a path; pass its path"
                )
            self._maps[location] = _map(_open_inside(self._folder, location, place), location, place)
        return self._maps[location]


def _number(entries: dict[str, str], key: str, default: int, place: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ModelError(f"{place}: external data {key} is {text[:40]!r}; expected a number that is not negative")
    return int(text)


def _open_inside(folder: Path, location: str, place: str) -> int:
    """A descriptor of the file `location` under `folder`, every component opened without following links."""
    parts = re.split(r"[/\\]", location)
    if not location or "\0" in location or location[0] in "/\\" or re.match(r"[A-Za-z]:", location):
        _refuse(location, "is no relative path", place)
    if ".." in parts:
        _refuse(location, "leaves the model's folder by '..'", place)
    names = [part for part in location.split("/") if part not in ("", ".")]
    if not names:
        _refuse(location, "is a folder", place)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for i, name in enumerate(names, start=1):
        kind = os.O_NONBLOCK if i == len(names) else os.O_DIRECTORY  # a FIFO must not block
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind
        try:
            inner = os.open(name, flags, dir_fd=descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                _refuse(location, "goes through a symbolic link or a file", place)
            raise ModelError(
                f"{place}: cannot open external data {location!r}: {error.strerror}; expected it beside the model"
            ) from None
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _map(descriptor: int, location: str, place: str) -> memoryview:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse(location, "is no regular file", place)
        if status.st_nlink > 1:
            _refuse(location, "has more than one hard link", place)
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if status.st_size else b"")
    finally:
        os.close(descriptor)


def _refuse(location: str, why: str, place: str) -> NoReturn:
    raise ModelError(
        f"{place}: external data location {location!r} {why}; expected a file of its own inside the model's folder "
        "(copy it there)"
    )
