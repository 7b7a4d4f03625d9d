"""AArch64 object files to code that runs from any page: sections one after the other, relocations applied.

Relocations as in "ELF for the Arm 64-bit Architecture", section 5.7; only such as LLVM emits for code that refers to
itself, so whoever calls a library or wants an absolute address is found out here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_ALLOCATED, _PROGRAM, _RELOCATIONS, _SYMBOLS = 2, 1, 4, 2
_PAGE = 4096
_IN_PAGE = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}  # ADD and loads: how far the offset is shifted
_BRANCHES = {279: (5, 14), 280: (5, 19), 282: (0, 26), 283: (0, 26)}  # first bit and bits of the distance in words


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    content: bytes
    link: int
    target: int
    align: int


def linked(code: bytes, name: str) -> tuple[bytes, int]:
    """A page-aligned image of an object file's code and constants, and where in it function `name` is.

    Raises ValueError for relocations against what is not in the file, or against absolute addresses.
    """
    sections = _sections(code)
    image, places = bytearray(), {}
    for number, section in enumerate(sections):
        if section.kind == _PROGRAM and section.flags & _ALLOCATED and section.name != ".eh_frame":
            image += bytes(-len(image) % max(section.align, 1))
            places[number] = len(image)
            image += section.content
    symbols = next(section for section in sections if section.kind == _SYMBOLS)
    strings = sections[symbols.link].content
    table = [struct.unpack_from("<IBBHQQ", symbols.content, at) for at in range(0, len(symbols.content), 24)]
    for section in sections:
        if section.kind != _RELOCATIONS or section.target not in places:
            continue
        for at in range(0, len(section.content), 24):
            offset, info, addend = struct.unpack_from("<QQq", section.content, at)
            symbol = table[info >> 32]
            if symbol[3] not in places:
                raise ValueError(f"{name} refers to {_text(strings, symbol[0])}, which its object does not define")
            value = places[symbol[3]] + symbol[4] + addend
            _relocate(image, places[section.target] + offset, info & 0xFFFF_FFFF, value)
    entry = next(places[s[3]] + s[4] for s in table if _text(strings, s[0]) == name and s[3] in places)
    return bytes(image), entry


def _sections(code: bytes) -> list[_Section]:
    if code[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", code, 18)[0] != 183:
        raise ValueError("no little-endian AArch64 object file")
    (start,) = struct.unpack_from("<Q", code, 40)
    size, count, names = struct.unpack_from("<HHH", code, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", code, start + size * i) for i in range(count)]
    texts = code[headers[names][4] :]
    return [
        _Section(_text(texts, name), kind, flags, code[at : at + length], link, target, align)
        for name, kind, flags, _, at, length, link, target, align, _ in headers
    ]


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(0, at)].decode()


def _relocate(image: bytearray, place: int, kind: int, value: int) -> None:
    (word,) = struct.unpack_from("<I", image, place)
    if kind == 275:  # ADRP
        pages = value // _PAGE - place // _PAGE
        word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    elif kind in _IN_PAGE:
        word |= (value % _PAGE >> _IN_PAGE[kind]) << 10
    elif kind in _BRANCHES:
        first, bits = _BRANCHES[kind]
        word |= (value - place >> 2 & (1 << bits) - 1) << first
    elif kind == 261:  # PREL32, in jump tables
        word = value - place & 0xFFFF_FFFF
    else:
        raise ValueError(f"relocation {kind} is none of those between instructions and data of one object")
    struct.pack_into("<I", image, place, word)
