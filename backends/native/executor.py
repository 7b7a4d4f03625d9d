"""The executor's own machine code: compiled (or loaded from the cache) once per process, shared by all programs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.binding as llvm
from llvmlite import ir

from backends.native.cache import ObjectCache, object_key
from backends.native.entry_code import emit_entry
from backends.native.jit import Engine, compile_object, never_freed
from backends.native.target import host
from backends.native.walker import Walker
from backends.native.worker import emit_wake, emit_worker

# What the native code calls, found through the process and the interpreter.
_LIBC = ("clock_gettime", "fegetenv", "fesetenv")
_LINUX = ("pthread_setaffinity_np", "sched_getcpu", "syscall")
_PYTHON = (
    "PyErr_CheckSignals", "PyEval_RestoreThread", "PyEval_SaveThread", "PyObject_Vectorcall", "PyTuple_New",
    "PyTuple_SetItem", "Py_DecRef", "Py_IncRef",
)  # fmt: skip


@dataclass(frozen=True)
class Executor:
    """Addresses of the executor's functions, and `execute` as Python calls it (it manages the GIL itself).

    execute(plan, slots, arena, team), all addresses of records -> a result of walker.py or the failing step's number;
    acquire(arena) -> 0 if the arena was free and now is the caller's.
    """

    engine: Engine
    worker_address: int
    entry_address: int
    execute: Callable[[int, int, int, int], int]
    acquire: Callable[[int], int]


_loaded: list[Executor] = []  # at most one, never unloaded: threads run in it
_lock = threading.Lock()


def executor(cache: ObjectCache | None = None) -> Executor:
    """The executor of this process; the first call loads it, through its cache."""
    with _lock:
        if not _loaded:
            _loaded.append(_load(cache))
        return _loaded[0]


def _load(cache: ObjectCache | None) -> Executor:
    key = object_key(host(), "executor")
    code = cache.get(key) if cache else None
    if code is None:
        code = compile_object(build(), host(), passes=2)
        if cache:
            cache.put([(key, code)])
    libc = ctypes.CDLL(None)
    for library, names in ((libc, _LIBC), (libc, _LINUX if host().futex_call else ()), (ctypes.pythonapi, _PYTHON)):
        for name in names:
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    engine = never_freed(Engine(host()))
    engine.add_objects(code)
    execute = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(engine.address("execute"))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(engine.address("acquire"))
    return Executor(engine, engine.address("worker"), engine.address("entry"), execute, acquire)


def build() -> ir.Module:
    """The module of all the executor's functions."""
    module = ir.Module("executor")
    walker = Walker(module, host())
    wake = emit_wake(module, host(), walker.now)
    emit_entry(module, walker.emit(wake))
    emit_worker(module, host(), walker.now)
    return module
