"""The builtin a program is called through, and its Python side: which plans it knows.

`program(x)` reaches native code without a Python frame; what the builtin does not serve goes to `fallback`. There is
no fast path where CPython or NumPy lay their objects out differently from what the native code reads.
"""

from __future__ import annotations

import ctypes
import sysconfig
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from backends.native.entry_code import (
    ALIGNED,
    CONTIGUOUS,
    DATA,
    DESCRIPTOR,
    EXTENTS,
    FLAGS,
    RANK,
    STRIDES,
    TYPE,
    WRITEABLE,
)  # fmt: skip
from backends.native.executor import executor
from backends.native.jit import never_freed
from backends.native.plan import Plan
from backends.native.records import ENTRY, KNOWN_PLANS, OPERAND, PLAN
from backends.native.team import team

_METH_FASTCALL_KEYWORDS = 0x80 | 0x02
_ARRAY_TYPE, _NEW_FROM_DESCR = 2, 94  # entries of NumPy's C API table


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    )  # fmt: skip


class Entry:
    """`function` is the builtin. It calls `fallback` for whatever no known plan serves; `arena` is an ARENA record's
    address. `owner` is kept alive with the builtin. takes_outputs: whether a call may bring arrays to fill after its
    inputs, which must not overlap them; they are then what it answers with."""

    def __init__(self, fallback: Callable[..., Any], arena: int, owner: object, takes_outputs: bool = False) -> None:
        self._record = ENTRY.new()
        self._plans: list[Plan] = []
        self._lock = threading.Lock()
        self._fallback = fallback
        ENTRY.write(
            self._record, 0, fallback=id(fallback), itself=id(self._record), array_type=id(np.ndarray),
            new_array=_array_api()[_NEW_FROM_DESCR], arena=arena, team=team.address, takes_outputs=int(takes_outputs),
        )  # fmt: skip
        self.function = _new_builtin(self._record, (fallback, owner, self._record))

    def remember(self, plan: Plan, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Serve calls like this one from now on."""
        with self._lock:
            if any(plan is known for known in self._plans):
                return
            if PLAN.read(plan.words, "owner") == 0:
                _describe(plan, inputs, outputs)
            self._show([plan, *self._plans][:KNOWN_PLANS])

    def forget(self) -> None:
        """Know no plan."""
        with self._lock:
            self._show([])

    def _show(self, plans: list[Plan]) -> None:
        # One statement, made with the GIL held, changes what native code sees; what it saw before is alive till then.
        record = self._record.copy()
        record[ENTRY.index["count"]] = len(plans)
        at = ENTRY.index["plans"]
        record[at : at + len(plans)] = [plan.address for plan in plans]
        self._record[:] = record
        self._plans = plans


def entry(fallback: Callable[..., Any], arena: int, owner: object, takes_outputs: bool = False) -> Entry | None:
    """An Entry, or None where this interpreter or NumPy is not as the native code expects."""
    return Entry(fallback, arena, owner, takes_outputs) if layout_is_known() else None


@lru_cache(maxsize=1)
def layout_is_known() -> bool:
    """Whether the words the native code reads are where it reads them (never on a free-threaded build)."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    table = _array_api()
    if not table or table[_ARRAY_TYPE] != id(np.ndarray):
        return False
    bytes_ = np.zeros(41, np.uint8)
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    samples = (
        np.zeros(()), np.zeros(3, np.int32), np.zeros((2, 3, 4), np.float32), np.zeros((2, 3)).T,
        np.zeros((4, 6))[:, ::2], bytes_[1:41].view(np.float64), np.zeros((0, 2), np.int64), read_only,
        np.broadcast_to(np.zeros(2), (3, 2))[::-1],
    )  # fmt: skip
    return all(_reads_right(array) for array in samples)


def _reads_right(array: np.ndarray) -> bool:
    def word(number: int) -> int:
        return ctypes.c_int64.from_address(id(array) + 8 * number).value

    def integer(number: int) -> int:
        return ctypes.c_int.from_address(id(array) + 8 * number).value

    def numbers(first: int) -> tuple[int, ...]:
        return tuple(ctypes.c_int64.from_address(word(first) + 8 * axis).value for axis in range(array.ndim))

    found = array.flags
    flags = CONTIGUOUS * found.c_contiguous | ALIGNED * found.aligned | WRITEABLE * found.writeable
    return (
        word(TYPE) == id(np.ndarray)
        and word(DATA) == array.ctypes.data
        and integer(RANK) == array.ndim
        and numbers(EXTENTS) == array.shape
        and numbers(STRIDES) == array.strides
        and word(DESCRIPTOR) == id(array.dtype)
        and integer(FLAGS) & (CONTIGUOUS | ALIGNED | WRITEABLE) == flags
    )


@lru_cache(maxsize=1)
def _array_api() -> Any:
    """NumPy's C API table, None where it is not found."""
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    capsule = getattr(_multiarray_umath, "_ARRAY_API", None)
    if capsule is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.cast(pointer(capsule, None), ctypes.POINTER(ctypes.c_uint64))


@lru_cache(maxsize=1)
def _method() -> _MethodDef:
    # Builtins in reference cycles are freed at exit after this module's globals, and look at their definition then.
    return never_freed(_MethodDef(b"program", executor().entry_address, _METH_FASTCALL_KEYWORDS, b"Run the program."))


def _new_builtin(itself: np.ndarray, kept_alive: object) -> Callable[..., Any]:
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.py_object]
    return new(ctypes.addressof(_method()), itself, kept_alive)


def _describe(plan: Plan, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """Let a plan's record say what calls it serves."""
    described = _operands(inputs, outputs)
    plan.kept = (*plan.kept, described, *(array.dtype for array in (*inputs, *outputs)))
    first = described.ctypes.data
    PLAN.write(
        plan.words, 0, owner=id(plan), inputs=first, input_count=len(inputs),
        outputs=first + 8 * OPERAND.words * len(inputs), output_count=len(outputs),
    )  # fmt: skip


def _operands(inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> np.ndarray:
    """OPERAND records of inputs, then of outputs (which are contiguous); their extents and strides after them."""
    arrays = [*inputs, *outputs]
    at = OPERAND.words * len(arrays)
    words = np.zeros(at + 2 * sum(array.ndim for array in arrays), np.int64)
    for number, array in enumerate(arrays):
        contiguous = array.flags.c_contiguous
        flags = ALIGNED | (CONTIGUOUS if contiguous else 0) | (WRITEABLE if number >= len(inputs) else 0)
        address, rank = words.ctypes.data + 8 * at, array.ndim
        ends = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
        low, high = sum(min(end, 0) for end in ends), sum(max(end, 0) for end in ends) + array.itemsize
        if contiguous:  # strides of axes of extent 1 say nothing
            low, high = 0, array.nbytes
        OPERAND.write(
            words, OPERAND.words * number,
            descriptor=id(array.dtype), rank=rank, extents=address, flags=flags,
            strides=0 if contiguous else address + 8 * rank, low=low, high=high,
        )  # fmt: skip
        words[at : at + rank] = array.shape
        words[at + rank : at + 2 * rank] = array.strides
        at += 2 * rank
    return words
