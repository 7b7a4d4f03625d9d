"""Which code generator serves a lowered call on a target, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.native.kernel import NativeKernel
from backends.native.target import Target
from compiler.kernels import KernelCall

Selector = Callable[[KernelCall, Target], NativeKernel]


def selectors() -> Mapping[type, Selector]:
    """One selector for each kind of spec."""
    from backends.native import attention, gemm, map, move, reduce, window
    from compiler import kernels

    return {
        kernels.MapSpec: map.select,
        kernels.ReduceSpec: reduce.select,
        kernels.GemmSpec: gemm.select,
        kernels.AttentionSpec: attention.select,
        kernels.WindowSpec: window.select,
        kernels.MoveSpec: move.select,
    }


def select(call: KernelCall, target: Target) -> NativeKernel:
    """The kernel for `call` on `target`."""
    return selectors()[type(call.spec)](call, target)
