"""Small lowered programs on a kernel made for testing the executor: it can be slow, fail, or tell who ran it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from llvmlite import ir

from backends.native import prepare
from backends.native.code import Code
from backends.native.executable import Executable
from backends.native.kernel import I64, ArgumentReader, Arguments, declare_kernel
from backends.native.target import host
from compiler import dims, dtypes
from compiler.dims import Size
from compiler.expr import arg
from compiler.ir import Value
from compiler.kernels import UNIT, Buffer, KernelCall, Lowered, MapSpec, View
from compiler.types import TensorType, contiguous_strides

F64 = dtypes.float64
SPEC = MapSpec((arg(0, F64) * arg(1, F64),), (F64, F64), 1, (UNIT, UNIT), (UNIT,))


@dataclass(frozen=True)
class Settings:
    """Options of an Executable."""

    threads: int = 1
    cache_dir: Path | None = None
    plans: int = 8
    tune: bool = False


@dataclass(frozen=True)
class TestKernel:
    """out[i] = in[i] * factor[0] (float64) for element i = chunk number; each chunk spins `spins` rounds first.

    `fails_at`: the chunk that reports status 1. `thread`: writes the running thread's id instead of a product.
    `packs`: the factor is a weight, packed as its negative.
    """

    __test__ = False

    spins: int = 0
    fails_at: int = -1
    thread: bool = False
    packs: bool = False
    unit: str = "test"
    reason: str = "made for a test"
    packed: list[str] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        """Everything that shapes the code."""
        return f"test_{self.spins}_{self.fails_at + 1}_{int(self.thread)}_{int(self.packs)}"

    def emit(self, module: ir.Module) -> None:
        """Define the kernel."""
        kernel = declare_kernel(module, self.name)
        code = Code(kernel)
        b = code.b
        reader = ArgumentReader(b, kernel)
        source, factor, target = (reader.pointer(ir.DoubleType()) for _ in range(3))
        chunk = kernel.args[2]
        with code.count(I64(self.spins)):
            b.load_atomic(kernel.args[0], "monotonic", 8)  # which LLVM may not leave out
        with b.if_then(b.icmp_signed("==", chunk, I64(self.fails_at))):
            status = b.load(kernel.args[1])
            b.store(I64(1), b.bitcast(status, I64.as_pointer()))
        value: ir.Value = b.fmul(b.load(b.gep(source, [chunk])), b.load(factor))
        if self.thread:
            thread = code.call("pthread_self", I64)
            value = b.uitofp(b.and_(thread, I64((1 << 50) - 1)), ir.DoubleType())
        b.store(value, b.gep(target, [chunk]))
        b.ret_void()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """One chunk an element."""
        return Arguments((*call.reads, call.writes[0]), size(call.writes[0].shape[0]), 64)

    def packed_reads(self, call: KernelCall) -> tuple[int, ...]:
        """The factor, if it is to be packed."""
        return (1,) if self.packs else ()

    def pack(self, call: KernelCall, read: int, array: np.ndarray) -> np.ndarray:
        """The negative."""
        self.packed.append(call.reads[read].buffer)
        return -array

    def pack_key(self, call: KernelCall, read: int) -> str:
        """One form."""
        return "negative"


def dense(name: str, *shape: Size) -> View:
    """A dense float64 view."""
    return View(name, F64, shape, contiguous_strides(shape))


def program(
    length: Size = dims.symbol("n"),  # noqa: B008 - immutable
    steps: int = 1,
    weights: Mapping[str, np.ndarray] | None = None,
    **changes: Any,
) -> Lowered:
    """y = x * f * f ..., `steps` calls over `length` elements; f is input "f" or the weight "f"."""
    weights = dict(weights or {})
    buffers = {
        "x": Buffer("x", F64, length, "input"),
        "f": Buffer("f", F64, 1, "weight" if weights else "input"),
        "y": Buffer("y", F64, length, "output"),
    }
    names = ["x", *(f"t{i}" for i in range(1, steps)), "y"]
    buffers.update((name, Buffer(name, F64, length, "temp")) for name in names[1:-1])
    calls = tuple(
        KernelCall(SPEC, (dense(a, length), dense("f", 1)), (dense(b, length),), (), (f"node{i}",))
        for i, (a, b) in enumerate(pairwise(names))
    )
    inputs = [value("x", length)] + ([] if weights else [value("f", 1)])
    fields: dict[str, Any] = {
        "inputs": tuple(inputs), "outputs": ((value("y", length), dense("y", length)),), "buffers": buffers,
        "weights": weights, "sizes": {}, "calls": calls,
    }  # fmt: skip
    return Lowered(**{**fields, **changes})


def value(name: str, *shape: Size) -> Value:
    """A float64 tensor."""
    return Value(name, TensorType(F64, shape))


@contextmanager
def kernels(*chosen: TestKernel) -> Iterator[None]:
    """Within, calls are served by the kernels in turn (the last one for all that follow)."""
    remaining = list(chosen)
    with mock.patch.object(prepare, "select", lambda call, target: remaining.pop(0) if remaining[1:] else remaining[0]):
        yield


def executable(lowered: Lowered, *chosen: TestKernel, threads: int = 1, **settings: Any) -> Executable:
    """`lowered` on test kernels."""
    with kernels(*(chosen or (TestKernel(),))):
        return Executable(lowered, host(), Settings(threads=threads, **settings))
