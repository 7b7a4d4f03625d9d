"""Compiled kernels of this process, by target and name: what is compiled once serves every program.

Machine code is never unloaded, because a thread may be running in it; the number of distinct kernels is bounded by
the specs that the models of a process use.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from llvmlite import ir

from backends.native.cache import ObjectCache, object_key
from backends.native.jit import PASSES, Engine, compile_object, never_freed
from backends.native.kernel import NativeKernel
from backends.native.target import Target
from compiler.kernels import Spec


@dataclass
class Counters:
    """Kernels this process has compiled, and loaded from the cache."""

    compiled: int = 0
    cached: int = 0


counters = Counters()


class Library:
    """Kernels of one target. Raises TargetError when this machine cannot run them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.engine = Engine(target)
        self._addresses: dict[str, int] = {}
        self._lock = threading.Lock()

    def load(self, kernels: Iterable[tuple[NativeKernel, Spec]], cache: ObjectCache | None) -> dict[str, int]:
        """The address of each kernel by name; those not here yet come from the cache or are compiled."""
        wanted = {kernel.name: (kernel, spec) for kernel, spec in kernels}
        with self._lock:
            missing = {name: pair for name, pair in wanted.items() if name not in self._addresses}
            if missing:
                self._add(missing, cache)
            return {name: self._addresses[name] for name in wanted}

    def _add(self, missing: dict[str, tuple[NativeKernel, Spec]], cache: ObjectCache | None) -> None:
        objects, fresh = [], []
        for name, (kernel, spec) in missing.items():
            key = object_key(self.target, name, repr(spec)) if cache else ""
            code = cache.get(key) if cache else None
            if code is None:
                code = compile_object(_module(kernel), self.target, getattr(kernel, "passes", PASSES))
                counters.compiled += 1
                fresh.append((key, code))
            else:
                counters.cached += 1
            objects.append(code)
        if cache and fresh:
            cache.put(fresh)
        self.engine.add_objects(*objects)
        for name in missing:
            self._addresses[name] = self.engine.address(name)


@cache
def library(target: Target) -> Library:
    """The kernels of `target` in this process."""
    return never_freed(Library(target))


def _module(kernel: NativeKernel) -> ir.Module:
    """The kernel's module, its helpers made internal so that many kernels can share one engine."""
    module = ir.Module(kernel.name)
    kernel.emit(module)
    for value in module.global_values:
        defined = value.blocks if isinstance(value, ir.Function) else value.initializer is not None
        if defined and value.name != kernel.name and not value.linkage:
            value.linkage = "internal"
    return module
