"""Whether this process may use AMX: the processor says so, the operating system keeps tiles and permits them, and a
product comes out right. Each step can only be taken after the one before.

Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1, chapter on programming with AMX; Linux,
Documentation/arch/x86/xstate.rst. The permission is the process's, once for all its threads; the kernel refuses it
(ENOSPC) while a thread's alternate signal stack has no room for tiles. Some virtual machines name AMX and have no
palette.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import llvmlite.binding as llvm
import numpy as np

FEATURES = {"amx-tile": (7, 0, "edx", 24), "amx-bf16": (7, 0, "edx", 22), "amx-int8": (7, 0, "edx", 25),
            "amx-fp16": (7, 1, "eax", 21)}  # fmt: skip
_TILE_STATE = 0b11 << 17  # of XCR0: configuration and data
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_REGISTERS = ("eax", "ebx", "ecx", "edx")

_QUESTIONS = """
define void @cpuid(i32 %leaf, i32 %subleaf, ptr %registers) {
  %r = call {i32, i32, i32, i32} asm sideeffect "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}"(i32 %leaf, i32 %subleaf)
  store {i32, i32, i32, i32} %r, ptr %registers
  ret void
}
define i64 @xgetbv() {
  %r = call {i32, i32} asm sideeffect "xgetbv", "={ax},={dx},{cx}"(i32 0)
  %low = extractvalue {i32, i32} %r, 0
  %high = extractvalue {i32, i32} %r, 1
  %l = zext i32 %low to i64
  %h = zext i32 %high to i64
  %u = shl i64 %h, 32
  %x = or i64 %u, %l
  ret i64 %x
}
"""
_PRODUCT = """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tdpbssd(i8 immarg, i8 immarg, i8 immarg)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilerelease()
define void @product(ptr %configuration, ptr %a, ptr %b, ptr %c) {
  call void @llvm.x86.ldtilecfg(ptr %configuration)
  call void @llvm.x86.tilezero(i8 0)
  call void @llvm.x86.tileloadd64(i8 1, ptr %a, i64 64)
  call void @llvm.x86.tileloadd64(i8 2, ptr %b, i64 64)
  call void @llvm.x86.tdpbssd(i8 0, i8 1, i8 2)
  call void @llvm.x86.tilestored64(i8 0, ptr %c, i64 64)
  call void @llvm.x86.tilerelease()
  ret void
}
"""


@dataclass(frozen=True)
class Steps:
    """What is asked, in order. `cpuid`: (leaf, subleaf) to eax, ebx, ecx, edx; `xgetbv`: XCR0; `permission`: the error
    number of the request, 0 if granted; `product`: whether a product of bytes came out right."""

    cpuid: Callable[[int, int], tuple[int, int, int, int]]
    xgetbv: Callable[[], int]
    permission: Callable[[], int]
    product: Callable[[], bool]


def probe(steps: Steps) -> tuple[frozenset[str], str]:
    """The features the processor names, as LLVM calls them, and why none of them can be used ('' if they can)."""
    if steps.cpuid(0, 0)[0] < 7:
        return frozenset(), ""
    leaves = {(leaf, sub): steps.cpuid(leaf, sub) for leaf, sub, _, _ in FEATURES.values()}
    named = frozenset(
        name for name, (leaf, sub, register, bit) in FEATURES.items()
        if leaves[leaf, sub][_REGISTERS.index(register)] >> bit & 1
    )  # fmt: skip
    if "amx-tile" not in named:
        return frozenset(), ""
    return named, _refusal(steps, "amx-int8" in named)


def _refusal(steps: Steps, multiplies_bytes: bool) -> str:
    keeps_state = steps.cpuid(1, 0)[2] >> 27 & 1  # OSXSAVE, without which XGETBV does not exist
    if not keeps_state or steps.xgetbv() & _TILE_STATE != _TILE_STATE:
        return "the operating system does not keep tiles"
    if failed := steps.permission():
        return f"the kernel does not permit tile data: {errno.errorcode.get(failed, failed)}"
    if steps.cpuid(0, 0)[0] < 0x1D or steps.cpuid(0x1D, 0)[0] < 1:
        return "there is no palette of tiles"
    # Palette 1: 1024 bytes a tile, 8192 in all; 64 bytes a row, 8 tiles; 16 rows.
    total, shape, rows, _ = steps.cpuid(0x1D, 1)
    if (total & 0xFFFF, total >> 16, shape & 0xFFFF, shape >> 16, rows & 0xFFFF) != (8192, 1024, 64, 8, 16):
        return "the palette of tiles is none that is known"
    if multiplies_bytes and not steps.product():
        return "a product came out wrong"
    return ""


@lru_cache(maxsize=1)
def here() -> tuple[frozenset[str], str]:
    """`probe` of this machine, once a process: with permission granted, if it is."""
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return frozenset(), ""
    return probe(machine_steps())


def machine_steps() -> Steps:
    """The questions as this machine answers them."""
    engine = _compiled(_QUESTIONS, "")
    numbers = (ctypes.c_uint32 * 4)()
    ask = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(
        engine.get_function_address("cpuid")
    )
    xgetbv = ctypes.CFUNCTYPE(ctypes.c_uint64)(engine.get_function_address("xgetbv"))

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        ask(leaf, subleaf, ctypes.addressof(numbers))
        eax, ebx, ecx, edx = numbers
        return eax, ebx, ecx, edx

    return Steps(cpuid, xgetbv, _request, product_is_right)


def _request() -> int:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype, call.argtypes = ctypes.c_long, (ctypes.c_long,) * 3
    return ctypes.get_errno() if call(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) else 0


def product_is_right() -> bool:
    """Whether tiles multiply 16 x 64 by 64 x 16 bytes as they should. To be asked only where the instructions exist and
    may be used: elsewhere they end the process."""
    engine = _compiled(_PRODUCT, ",+amx-tile,+amx-int8")
    configuration = np.zeros(64, np.uint8)
    configuration[0], configuration[16:22:2], configuration[48:51] = 1, 64, 16
    numbers = np.arange(16 * 64)
    a, b = ((numbers * step % 251 - 125).astype(np.int8).reshape(16, 64) for step in (7, 11))
    c = np.full((16, 16), -1, np.int32)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(engine.get_function_address("product"))
    function(*(array.ctypes.data for array in (configuration, a, b, c)))
    columns = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16)
    return bool(np.array_equal(c, a.astype(np.int32) @ columns.astype(np.int32)))


@lru_cache(maxsize=4)
def _compiled(text: str, features: str) -> llvm.ExecutionEngine:
    """An engine with the functions of a module; kept, since code lives no longer than it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten() + features, opt=1,
        reloc="pic", codemodel="default",
    )  # fmt: skip
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    return engine
