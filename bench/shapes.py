"""The shapes of matrix products by the name of what they come from, and those a command line asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

GEMV_ROWS = 8  # products with at most that many rows of A read B faster than they can multiply


@dataclass(frozen=True, order=True)
class Shape:
    """A [M, K] @ B [K, N]."""

    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"

    @property
    def operations(self) -> int:
        """Two a multiply-add."""
        return 2 * self.m * self.n * self.k

    @property
    def is_gemv(self) -> bool:
        """Whether the rate is that of reading B, not of multiplying."""
        return self.m <= GEMV_ROWS


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(Shape(*map(int, word.split("x"))) for word in text.split())


# Every shape is MxNxK. `quick` and, for cold weights, `cold` are what runs when nothing is asked for.
SETS: dict[str, tuple[Shape, ...]] = {
    "squares": tuple(Shape(size, size, size) for size in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)),
    "bert": _shapes(  # base at sequence 128 and 512: projections, both halves of the feed-forward net, one head
        "128x768x768 128x3072x768 128x768x3072 512x768x768 512x3072x768 512x768x3072 128x128x64 128x64x128"
    ),
    "gpt": _shapes(  # GPT-2: 64 tokens, 1024 tokens, the vocabulary
        "64x2304x768 64x768x768 64x3072x768 64x768x3072 1024x2304x768 1024x3072x768 16x50257x768"
    ),
    "llama": _shapes(  # 1B and 7B
        "128x2048x2048 128x8192x2048 128x2048x8192 512x2048x2048 128x4096x4096 128x11008x4096 128x4096x11008"
    ),
    "resnet": _shapes(  # 50 layers on 224 x 224: M the output's positions, K the window times the channels
        "12544x64x147 3136x64x64 3136x64x576 3136x256x64 784x128x512 784x128x1152 784x512x128 196x256x1024 "
        "196x256x2304 196x1024x256 49x512x2048 49x512x4608 49x2048x512 1x1000x2048"
    ),
    "primes": _shapes("31x37x29 127x131x137 257x263x269 509x251x1021 1021x1031x1033 127x769x3079"),
    "skinny": _shapes(
        "16384x16x64 8192x32x256 4096x64x1024 16x16384x64 32x8192x256 64x4096x1024 2048x2048x4 1024x1024x16 "
        "1024x1024x32 32x32x65536 64x64x16384 128x128x8192"
    ),
    "gemv": _shapes(
        "1x128x128 1x768x768 1x3072x768 1x768x3072 1x4096x4096 1x11008x4096 2x4096x4096 3x1024x1024 4x4096x4096 "
        "5x3072x768 6x2048x2048 7x768x768 8x768x768 8x4096x4096"
    ),
    "quick": _shapes(
        "32x32x32 64x64x64 128x128x128 256x256x256 512x512x512 1024x1024x1024 2048x2048x2048 128x768x768 "
        "128x3072x768 128x768x3072 3136x64x576 127x131x137 509x251x1021 8192x32x256 64x64x16384 "
        "1x768x768 1x4096x4096 4x4096x4096"
    ),
    "cold": _shapes("128x768x768 128x3072x768 128x768x3072 1x4096x4096"),
}
_MNK = re.compile(r"[1-9]\d*(x[1-9]\d*){2}")


def parse(text: str) -> tuple[Shape, ...]:
    """The shapes of a comma-separated list of set names, `all` and MxNxK, each once, in the order asked for. Raises
    ValueError for other words."""
    found: dict[Shape, None] = {}
    for word in text.split(","):
        if word == "all":
            found |= dict.fromkeys(shape for shapes in SETS.values() for shape in shapes)
        elif word in SETS:
            found |= dict.fromkeys(SETS[word])
        elif _MNK.fullmatch(word):
            found |= dict.fromkeys(_shapes(word))
        else:
            raise ValueError(f"{word!r} is no shape; expected MxNxK, all or one of {', '.join(SETS)}")
    return tuple(found)
