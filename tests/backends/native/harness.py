"""Runs one kernel on NumPy arrays, as the executor would: chunk by chunk in shuffled order, between canaries."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import ml_dtypes  # noqa: F401 -- teaches NumPy the 16-bit and 8-bit types
import numpy as np
from llvmlite import ir

from backends.native import units
from backends.native.jit import Engine
from backends.native.kernel import SLOT_FIRST_INPUT, SLOT_STATUS, Arguments, NativeKernel
from backends.native.target import Target, host
from compiler import dtypes
from compiler.kernels import BROADCAST, GENERAL, UNIT, KernelCall, Spec, View

Selector = Callable[[KernelCall, Target], NativeKernel]

GUARD = 192  # bytes of canary on either side
_WIDE = {"avx512", "evex512"}

FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


def target_with(vector: int) -> Target:
    """This machine with vectors of `vector` bytes and without the instructions for wider ones."""
    features = host().features
    if vector < 64:
        features = frozenset(f for f in features if not any(f.startswith(word) for word in _WIDE))
    if vector < 32:
        features = frozenset(f for f in features if not f.startswith("avx") and f not in ("fma", "f16c", "vaes"))
    return replace(host(), name=f"v{vector}", features=features, vector=vector, cpu="x86-64")


TARGETS = tuple(
    host() if vector == host().vector else target_with(vector) for vector in (64, 32, 16) if vector <= host().vector
)


def in_order() -> Target:
    """This machine without the units that sum floats in an order of their own, and those that need no less."""
    here = [unit for unit in units.known(host()) if not unit.missing(host())]
    own = [unit for unit in here if unit.acc.is_float and not unit.in_order]
    rest = [unit for unit in here if not any(set(other.requires) <= set(unit.requires) for other in own)]
    kept = {feature for unit in rest for feature in unit.requires}
    dropped = {feature for unit in own for feature in unit.requires} - kept
    return replace(host(), name="in order", features=host().features - dropped) if own else host()


def view_of(array: np.ndarray, name: str) -> View:
    """The View of an array whose first element is at its buffer's start."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return View(name, dtypes.from_numpy(array.dtype), array.shape, strides)


def stride_class(array: np.ndarray, axis: int = -1) -> str:
    """The class a spec would give the array on one axis."""
    if array.ndim == 0 or array.strides[axis] == array.itemsize:
        return UNIT
    return BROADCAST if array.strides[axis] == 0 else GENERAL


@lru_cache(maxsize=1024)
def _function(kernel: NativeKernel, target: Target) -> tuple[Engine, object]:
    module = ir.Module(kernel.name)
    kernel.emit(module)
    engine = Engine(target)
    engine.add(module)
    return engine, FUNCTION(engine.address(kernel.name))


def guarded(shape: Sequence[int], dtype: np.dtype, order: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A writable array between canaries, dense in axis order `order`, and the bytes that hold it all."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD, 0xA5, np.uint8)
    order = tuple(range(len(shape))) if order is None else tuple(order)
    dense = memory[GUARD : GUARD + size].view(dtype).reshape([shape[axis] for axis in order])
    return dense.transpose(np.argsort(order)) if shape else dense, memory


def run(
    selector: Selector,
    spec: Spec,
    reads: Sequence[np.ndarray],
    writes: Sequence[np.ndarray],
    *,
    target: Target | None = None,
    threads: int = 1,
    params: Sequence[int] = (),
    packed: dict[int, np.ndarray] | None = None,
) -> int:
    """Run `spec` on arrays (reads and writes already have the shapes the spec asks for); the status it reports."""
    target = target or host()
    views = [view_of(array, f"b{i}") for i, array in enumerate((*reads, *writes))]
    call = KernelCall(spec, tuple(views[: len(reads)]), tuple(views[len(reads) :]), tuple(params))
    kernel = selector(call, target)
    arrays = list((*reads, *writes))
    for read in kernel.packed_reads(call):
        arrays[read] = kernel.pack(call, read, arrays[read])
    planned = kernel.arguments(call, int, threads)
    return execute(kernel, target, planned, {view.buffer: array for view, array in zip(views, arrays, strict=True)})


def poisoned(size: int) -> np.ndarray:
    """Bytes for scratch: NaNs to a kernel that reads before it writes."""
    return np.full(size, 0xFF, np.uint8)


def execute(kernel: NativeKernel, target: Target, planned: Arguments, memory: dict[str, np.ndarray]) -> int:
    """Run a planned call's chunks in shuffled order on poisoned scratch; the status word."""
    engine, function = _function(kernel, target)
    names = list(memory)
    words: list[int] = []
    for word in planned.words:
        words += [SLOT_FIRST_INPUT + names.index(word.buffer), 0] if isinstance(word, View) else [int(word)]
    status = np.zeros(1, np.int64)
    slots = np.zeros(SLOT_FIRST_INPUT + len(names), np.int64)
    slots[SLOT_STATUS] = status.ctypes.data
    slots[SLOT_FIRST_INPUT:] = [array.ctypes.data for array in memory.values()]
    block = np.array(words, np.int64)
    scratch = poisoned(planned.scratch + 64 + GUARD)
    start = -scratch.ctypes.data % 64
    chunks = list(range(planned.chunks))
    random.Random(7).shuffle(chunks)
    for chunk in chunks:
        function(block.ctypes.data, slots.ctypes.data, chunk, scratch.ctypes.data + start)
    assert (scratch[start + planned.scratch :] == 0xFF).all(), f"{kernel.name} wrote beyond its scratch"
    assert engine is not None
    return int(status[0])


def assert_guards(memory: np.ndarray) -> None:
    """Nothing around a guarded array was written."""
    assert (memory[:GUARD] == 0xA5).all() and (memory[len(memory) - GUARD :] == 0xA5).all(), "wrote outside the output"


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit for bit, but for the payload of NaNs."""
    assert found.dtype == expected.dtype and found.shape == expected.shape, (
        found.dtype,
        expected.dtype,
        found.shape,
        expected.shape,
    )
    if found.dtype.kind in "fcV":
        nan = np.isnan(expected)
        assert np.array_equal(np.isnan(found), nan)
        bits = np.dtype(f"u{found.dtype.itemsize}")
        found, expected = (np.where(nan, 0, np.ascontiguousarray(a).view(bits)) for a in (found, expected))
    assert np.array_equal(found, expected), f"{np.sum(found != expected)} of {found.size} elements differ"
