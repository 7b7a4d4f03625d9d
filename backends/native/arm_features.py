"""What Linux says an Arm core can do, by LLVM's names: LLVM's own detection knows too little of it.

Bits as in Linux' Documentation/arch/arm64/elf_hwcaps.rst.
"""

from __future__ import annotations

import ctypes
import platform
import sys

_AT_HWCAP, _AT_HWCAP2 = 16, 26
_FIRST = {"neon": 1, "fullfp16": 10, "dotprod": 20}
_SECOND = {"i8mm": 13, "bf16": 14}


def features(first: int, second: int) -> frozenset[str]:
    """The features that the words AT_HWCAP and AT_HWCAP2 name."""
    named = ((_FIRST, first), (_SECOND, second))
    return frozenset(name for bits, word in named for name, bit in bits.items() if word >> bit & 1)


def detected() -> frozenset[str]:
    """The features of this machine; none where it is no Arm machine, or does not run Linux."""
    if platform.machine() != "aarch64" or sys.platform != "linux":
        return frozenset()
    value = ctypes.CDLL(None).getauxval
    value.restype, value.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return features(value(_AT_HWCAP), value(_AT_HWCAP2))
