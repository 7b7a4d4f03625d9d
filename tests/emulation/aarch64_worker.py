"""Runs inside the emulated process, under an Arm Python that has its standard library and nothing else.

Reads requests from standard input and answers on standard output, each as a length and a marshalled tuple: `load`
takes a code image and gives its number, `run` calls a kernel once a chunk on copies of its operands and gives what
became of them. Every operand ends, and its page begins, at memory that nobody may touch.
"""

from __future__ import annotations

import ctypes
import marshal
import mmap
import struct
import sys
from typing import BinaryIO

POISON = 0xA5  # before operands, and in scratch
MARSHAL = 2  # a version all Pythons read
CODE, CODE_SIZE = 0x50_0000_0000, 0x1000_0000  # where code goes, so that a log can be told to note it alone
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_loaded: list[int] = []
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


def _mapped(size: int, near: int | None = None) -> int:
    """The address of `size` fresh bytes, at `near` if nothing is there."""
    address = _LIBC.mmap(near, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(f"no {size} bytes for the emulated process")
    return address


def _protect(address: int, size: int, protection: int) -> None:
    if _LIBC.mprotect(address, size, protection):
        raise OSError(ctypes.get_errno(), "mprotect")


class Fenced:
    """Bytes between pages that nobody may touch, the last of them right before one."""

    def __init__(self, content: bytes, align: int = 1) -> None:
        page = mmap.PAGESIZE
        self.size = -(-len(content) // align) * align
        self.inside = max(1, -(-self.size // page)) * page
        self.mapping = _mapped(self.inside + 2 * page)
        self.address = self.mapping + page + self.inside - self.size
        ctypes.memset(self.mapping + page, POISON, self.inside)
        ctypes.memmove(self.address, content, len(content))
        for fence in (0, page + self.inside):
            _protect(self.mapping + fence, page, 0)

    def content(self, length: int) -> bytes:
        """The first bytes."""
        return ctypes.string_at(self.address, length)

    def intact(self, length: int) -> bool:
        """Whether nothing but the first `length` bytes was written."""
        before = ctypes.string_at(self.mapping + mmap.PAGESIZE, self.inside - self.size)
        behind = ctypes.string_at(self.address + length, self.size - length)
        return not (before + behind).strip(bytes([POISON]))

    def free(self) -> None:
        """Give the memory back."""
        _LIBC.munmap(self.mapping, self.inside + 2 * mmap.PAGESIZE)


def load(image: bytes) -> int:
    """The address of code, which may run from any page."""
    size = -(-len(image) // mmap.PAGESIZE) * mmap.PAGESIZE
    address = _mapped(size, CODE + sum(_loaded))
    _loaded.append(size)
    ctypes.memmove(address, image, len(image))
    _protect(address, size, mmap.PROT_READ | mmap.PROT_EXEC)
    return address


def run(
    entry: int, words: tuple[int, ...], operands: tuple[tuple[bytes, int], ...], first: int, chunks: tuple[int, ...],
    scratch: int,
) -> tuple[int, tuple[bytes, ...], str]:  # fmt: skip
    """Call the kernel at `entry` once a chunk. `operands`: bytes, and where the first element is among them; the slots
    from `first` on. Gives the status word, what the operands are now, and what was wrongly written ('' if nothing)."""
    places = [Fenced(content) for content, _ in operands]
    block, status = Fenced(struct.pack(f"<{len(words)}q", *words)), Fenced(bytes(8))
    addresses = [place.address + offset for place, (_, offset) in zip(places, operands, strict=True)]
    slots = Fenced(struct.pack(f"<{first + len(places)}q", status.address, *[0] * (first - 1), *addresses))
    space = Fenced(bytes([POISON]) * scratch, 64)
    function = _KERNEL(entry)
    for chunk in chunks:
        function(block.address, slots.address, chunk, space.address)
    lengths = [len(content) for content, _ in operands]
    contents = tuple(place.content(length) for place, length in zip(places, lengths, strict=True))
    wrong = [f"before operand {i}" for i, place in enumerate(places) if not place.intact(lengths[i])]
    wrong += [] if space.intact(scratch) else ["beyond scratch"]
    found = struct.unpack("<q", status.content(8))[0], contents, ", ".join(wrong)
    for place in (*places, block, status, slots, space):
        place.free()
    return found


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more requests."""
    while header := requests.read(8):
        name, *arguments = marshal.loads(requests.read(struct.unpack("<Q", header)[0]))
        answer = marshal.dumps({"load": load, "run": run}[name](*arguments), MARSHAL)
        answers.write(struct.pack("<Q", len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
