"""What the operating system says an Arm core can do, by LLVM's names: LLVM's own detection knows too little of it.

Bits as in Linux' Documentation/arch/arm64/elf_hwcaps.rst, prctl's numbers as in its sme.rst; names of macOS as in
Apple, "Determining instruction set characteristics". Of streaming mode everything the units need has to be there:
products of FP32, of 16-bit floats and of bytes; those of FP64 are a feature of their own.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable

_AT_HWCAP, _AT_HWCAP2 = 16, 26
_FIRST = {"neon": 1, "fullfp16": 10, "dotprod": 20, "sve": 22}
_SECOND = {"sve2": 1, "i8mm": 13, "bf16": 14}
_WIDE = {"i8mm": 9, "bf16": 12}  # of the second word: the same on vectors of any length
_STREAMING = {"sme": (23, 26, 27, 28, 29), "sme-f64f64": (25,), "sme2": (37,)}  # of the second word, all of them
_SYSCTL = {
    "fullfp16": ("FEAT_FP16",),
    "dotprod": ("FEAT_DotProd",),
    "i8mm": ("FEAT_I8MM",),
    "bf16": ("FEAT_BF16",),
    "sme": ("FEAT_SME", "SME_I8I32", "SME_B16F32", "SME_F16F32", "SME_F32F32"),
    "sme-f64f64": ("FEAT_SME_F64F64",),
    "sme2": ("FEAT_SME2",),
}
_PR_SVE_GET_VL, _PR_SME_GET_VL, _VL_BYTES = 51, 64, 0xFFFF


def features(first: int, second: int) -> frozenset[str]:
    """The features that the words AT_HWCAP and AT_HWCAP2 name."""
    named = ((_FIRST, first), (_SECOND, second))
    found = {name for bits, word in named for name, bit in bits.items() if word >> bit & 1}
    found |= {name for name, bits in _STREAMING.items() if all(second >> bit & 1 for bit in bits)}
    if any(name in found and not second >> bit & 1 for name, bit in _WIDE.items()):
        found -= {"sve", "sve2"}  # LLVM takes what both have for what either has
    return _consistent(found)


def features_by_name(value: Callable[[str], int]) -> frozenset[str]:
    """The features by what macOS' sysctl gives for names, 0 for those it does not know."""
    found = {name for name, keys in _SYSCTL.items() if all(value(f"hw.optional.arm.{key}") for key in keys)}
    return _consistent({"neon", *found})


def detected() -> frozenset[str]:
    """The features of this machine; none where it is no Arm machine, or its system is neither Linux nor macOS."""
    if platform.machine() == "arm64" and sys.platform == "darwin":
        return features_by_name(sysctl)
    if platform.machine() != "aarch64" or sys.platform != "linux":
        return frozenset()
    value = ctypes.CDLL(None).getauxval
    value.restype, value.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return features(value(_AT_HWCAP), value(_AT_HWCAP2))


def vector_bytes() -> int:
    """How long this process's vectors are where instructions do not say it, 0 where there are none."""
    return _length(_PR_SVE_GET_VL) if "sve" in detected() else 0


def streaming_bytes() -> int:
    """How long this process's vectors are in streaming mode, 0 where there is none."""
    if "sme" not in detected():
        return 0
    if sys.platform == "darwin":
        return sysctl("hw.optional.arm.sme_max_svl_b")
    return _length(_PR_SME_GET_VL)


def _length(question: int) -> int:
    length: int = ctypes.CDLL(None, use_errno=True).prctl(question, 0, 0, 0, 0)
    return length & _VL_BYTES if length > 0 else 0


def _consistent(found: set[str]) -> frozenset[str]:
    lacking = tuple(name for name in ("sve", "sme") if name not in found)
    return frozenset(name for name in found if not name.startswith(lacking))


def sysctl(name: str) -> int:
    """A number that macOS' sysctl gives, 0 where it does not know the name."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value
