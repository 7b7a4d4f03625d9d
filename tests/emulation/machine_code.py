"""Small functions made of tile instructions, by LLVM for this machine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import llvmlite.binding as llvm
import numpy as np

FEATURES = "+amx-tile,+amx-bf16,+amx-int8,+amx-fp16"
Step = tuple[str, *tuple[int, ...]]
_engines: list[llvm.ExecutionEngine] = []  # code lives as long as its engine


@lru_cache(maxsize=1)
def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    features = f"{llvm.get_host_cpu_features().flatten()},{FEATURES}"
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, reloc="pic", codemodel="default"
    )


@lru_cache(maxsize=256)
def assembled(text: str) -> int:
    """The address of function `f` of an LLVM module."""
    module = llvm.parse_assembly(text)
    module.verify()
    _engines.append(llvm.create_mcjit_compiler(module, _machine()))
    _engines[-1].finalize_object()
    return _engines[-1].get_function_address("f")


@lru_cache(maxsize=256)
def compiled(*steps: Step) -> int:
    """The address of void f(int64 *slots) that executes the intrinsics named by `steps`, each with its operands: tiles
    by number, then for memory the slot that holds the address, and for tile loads and stores the slot of the stride."""
    lines, declared = [], set()
    for i, (name, *operands) in enumerate(steps):
        tiles = [f"i8 {operand}" for operand in operands]
        if name in ("ldtilecfg", "sttilecfg", "tileloadd64", "tileloaddt164", "tilestored64"):
            slots = operands if name.endswith("cfg") else operands[1:]
            for slot in slots:
                lines += [
                    f"%a{i}.{slot} = getelementptr i64, ptr %slots, i64 {slot}",
                    f"%v{i}.{slot} = load i64, ptr %a{i}.{slot}",
                ]
            lines.append(f"%p{i} = inttoptr i64 %v{i}.{slots[0]} to ptr")
            tiles = tiles[: len(operands) - len(slots)] + [f"ptr %p{i}"] + [f"i64 %v{i}.{slot}" for slot in slots[1:]]
        lines.append(f"call void @llvm.x86.{name}({', '.join(tiles)})")
        kinds = [("i8 immarg" if kind == "i8" else kind) for kind, _ in (tile.split() for tile in tiles)]
        declared.add(f"declare void @llvm.x86.{name}({', '.join(kinds)})")
    return assembled("\n".join([*sorted(declared), "define void @f(ptr %slots) {", *lines, "ret void", "}"]))


KEPT = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))  # all but rsp


def asm_function(lines: Sequence[str]) -> int:
    """The address of a function of assembler lines (AT&T), given its slots in rdi; it may use every register."""
    body = [f"push %{name}" for name in KEPT] + [*lines] + [f"pop %{name}" for name in reversed(KEPT)] + ["ret"]
    text = r"\0A".join(body).replace("$", "$$")
    return assembled(f'define void @f(ptr %0) naked {{ call void asm sideeffect "{text}", ""() unreachable }}')


def run(function: int, slots: Sequence[int] = ()) -> None:
    """Call a function at an address with its slots' values."""
    memory = np.array(slots, np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(memory.ctypes.data)


def call(*steps: Step) -> Callable[..., None]:
    """`compiled` as a function of the slots' values."""
    return partial(run, compiled(*steps))


def configuration(shapes: dict[int, tuple[int, int]], palette: int = 1) -> np.ndarray:
    """The 64 bytes of a tile configuration; `shapes` gives rows and bytes per row of the tiles in use."""
    memory = np.zeros(64, np.uint8)
    memory[0] = palette
    for tile, (rows, row_bytes) in shapes.items():
        memory[16 + 2 * tile : 18 + 2 * tile] = np.array([row_bytes], np.uint16).view(np.uint8)
        memory[48 + tile] = rows
    return memory
