"""The contract between lowered calls, code generators and the executor.

Every kernel is one native function

    void name(const int64_t *args, char *const *slots, int64_t chunk, char *scratch)

`args` is the call's immutable argument block. A pointer in it is two words, a slot number and a byte offset: the
address is slots[slot] + offset (SLOT_ABSOLUTE's base is null, so weights are plain addresses). The call's work is
cut into chunks [0, chunks) that may run in any order on any thread; `scratch` is 64-byte-aligned per-thread memory.
A kernel reports a data-dependent error by storing a non-zero code to the first word of slot SLOT_STATUS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from llvmlite import ir

from backends.native.target import Target
from compiler.dims import Size
from compiler.kernels import KernelCall, Spec, View

SLOT_STATUS, SLOT_ABSOLUTE, SLOT_ARENA, SLOT_FIRST_INPUT = 0, 1, 2, 3
STATUS_INDEX_OUT_OF_RANGE = 1

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = I8.as_pointer()
KERNEL_TYPE = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), POINTER.as_pointer(), I64, POINTER])


@dataclass(frozen=True)
class Arguments:
    """A planned call: argument words (a View stands for its two pointer words), chunk count, scratch bytes a thread."""

    words: tuple[int | View, ...]
    chunks: int
    scratch: int = 0


class NativeKernel(Protocol):
    """A code generator for one spec on one unit. Instances are cheap, hashable by `name`, and hold no machine code."""

    @property
    def name(self) -> str:
        """The function's symbol; equal names mean equal code."""

    @property
    def unit(self) -> str:
        """For the ledger: the name of the unit, or "vector"."""

    @property
    def reason(self) -> str:
        """For the ledger: why not a better unit; '' if this is the best."""

    def emit(self, module: ir.Module) -> None:
        """Define the function `name` in `module`."""

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """The argument block for concrete sizes; `size` turns symbolic sizes into numbers. Called once a plan."""

    def packed_reads(self, call: KernelCall) -> tuple[int, ...]:
        """Which reads must be weights in packed form."""

    def pack(self, call: KernelCall, read: int, array: np.ndarray) -> np.ndarray:
        """The packed form of weight `array` (already viewed as read's shape) for that read."""

    def pack_key(self, call: KernelCall, read: int) -> str:
        """Names the packed layout: one weight packed twice under the same key is shared."""


class UnpackedReads:
    """The packing part of NativeKernel for kernels that read every operand as it is."""

    def packed_reads(self, call: KernelCall) -> tuple[int, ...]:
        """None."""
        return ()

    def pack(self, call: KernelCall, read: int, array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def pack_key(self, call: KernelCall, read: int) -> str:
        """No layout of its own."""
        return ""


@dataclass(frozen=True)
class VectorKernel(UnpackedReads):
    """What a NativeKernel on vector registers has; subclasses narrow the type of `spec` and add the code."""

    spec: Spec
    target: Target
    name: str
    unit: str = "vector"
    reason: str = ""


class ArgumentReader:
    """Reads an argument block at the top of a kernel: in the order `Arguments.words` was written."""

    def __init__(self, builder: ir.IRBuilder, function: ir.Function) -> None:
        self.builder = builder
        self.args, self.slots = function.args[0], function.args[1]
        self._next = 0

    def integer(self, name: str = "") -> ir.Value:
        """The next word."""
        address = self.builder.gep(self.args, [I64(self._next)])
        self._next += 1
        return self.builder.load(address, name=name)

    def pointer(self, element: ir.Type, name: str = "") -> ir.Value:
        """The next two words as an address, typed as a pointer to `element`."""
        slot, offset = self.integer(), self.integer()
        base = self.builder.load(self.builder.gep(self.slots, [slot]))
        return self.builder.bitcast(self.builder.gep(base, [offset]), element.as_pointer(), name=name)

    def status(self) -> ir.Value:
        """Where a data-dependent error is reported, typed as a pointer to int64."""
        word = self.builder.load(self.builder.gep(self.slots, [I64(SLOT_STATUS)]))
        return self.builder.bitcast(word, I64.as_pointer())


def define_helper(
    module: ir.Module, name: str, kinds: Sequence[ir.Type], attributes: Sequence[str] = ()
) -> tuple[ir.Function, ir.IRBuilder]:
    """A function of the module's own, of arguments of these types and without a result, and a builder in its body.
    attributes: LLVM's, of a machine and so not among those llvmlite knows."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    for attribute in attributes:
        set.add(function.attributes, attribute)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def declare_kernel(module: ir.Module, name: str) -> ir.Function:
    """A kernel function without a body."""
    function = ir.Function(module, KERNEL_TYPE, name)
    function.attributes.add("nounwind")
    for argument, label in zip(function.args, ("args", "slots", "chunk", "scratch"), strict=True):
        argument.name = label
    for argument in (function.args[0], function.args[1], function.args[3]):
        argument.attributes.add("noalias")
    return function
