"""Which instructions kernels execute, and how often: from QEMU's log of an emulated process, one instruction a line."""

from __future__ import annotations

import re
import struct
import tempfile
from collections import Counter

from tests.emulation.aarch64 import CPU, Processor
from tests.emulation.aarch64_worker import CODE, CODE_SIZE

# Encodings of Arm, "Arm Architecture Reference Manual Supplement, the Scalable Matrix Extension": mask, value.
ENCODINGS = {
    "outer product": ((0xFFE0_0010, 0x8080_0000), (0xFFE0_0010, 0x80C0_0000), (0xFFE0_0010, 0x8180_0000),
                      (0xFFE0_0010, 0x81A0_0000), (0xFFE0_0010, 0xA080_0000), (0xFFE0_0010, 0xA0A0_0000),
                      (0xFFE0_0010, 0xA180_0000), (0xFFE0_0010, 0xA1A0_0000)),
    "zero": ((0xFFFF_FF00, 0xC008_0000),),
    "tile row from memory": ((0xFF20_0010, 0xE000_0000),),
    "tile row to memory": ((0xFF20_0010, 0xE020_0000),),
    "tile row to vector": ((0xFF3F_0000, 0xC002_0000),),
    "mode switch": ((0xFFFF_F0FF, 0xD503_407F),),
}  # fmt: skip
FOREIGN = "scalable outside streaming mode"
_SWITCHES = {0xD503_437F: True, 0xD503_427F: False}  # of streaming mode, as against that of tiles
_SCALABLE = 0b0010  # bits 25 to 28 of what works on vectors of scalable length
_EXECUTED = re.compile(rb"\[[0-9a-f]+/([0-9a-f]+)/")


class CountingProcessor(Processor):
    """An emulated process that notes every instruction of the code it is given."""

    def __init__(self, cpu: str = CPU) -> None:
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 - as long as the process
        self._images: dict[int, bytes] = {}
        self._read = 0
        log = ("-d", "exec,nochain", "-D", self._log.name, "-dfilter", f"{CODE:#x}+{CODE_SIZE:#x}")
        super().__init__(cpu, ("-one-insn-per-tb", *log))

    def _ask(self, name: str, *arguments: object) -> tuple[int, list[bytes], str] | int:
        answer = super()._ask(name, *arguments)
        if name == "load":
            self._images[answer] = arguments[0]
        return answer

    def executed(self) -> Counter[str]:
        """Instructions by kind since the last call; those of no kind above are "other", and of scalable vectors where
        the processor is not in streaming mode FOREIGN: a machine without SVE has none of them."""
        with open(self._log.name, "rb") as log:
            log.seek(self._read)
            places = [int(place, 16) for place in _EXECUTED.findall(log.read())]
            self._read = log.tell()
        words = {place: self._word(place) for place in set(places)}
        kinds = {place: _kind(word) for place, word in words.items()}
        found, streaming = Counter[str](), False
        for place in places:
            word, kind = words[place], kinds[place]
            streaming = streaming if kind != "mode switch" or word not in _SWITCHES else _SWITCHES[word]
            found[FOREIGN if word >> 25 & 15 == _SCALABLE and not streaming else kind] += 1
        return found

    def _word(self, address: int) -> int:
        start, image = next((s, i) for s, i in self._images.items() if s <= address < s + len(i))
        return int(struct.unpack_from("<I", image, address - start)[0])


def _kind(word: int) -> str:
    kinds = (kind for kind, codes in ENCODINGS.items() if any(word & mask == value for mask, value in codes))
    return next(kinds, "other")
