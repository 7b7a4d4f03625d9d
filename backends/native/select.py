"""Which code generator serves a lowered call on a target, and why."""

from __future__ import annotations

import importlib

from backends.native.kernel import NativeKernel
from backends.native.target import Target
from compiler import kernels
from compiler.kernels import KernelCall
from compiler.recurrence import RecurrenceSpec
from compiler.running import RunningSpec
from compiler.suppression import SuppressSpec

# Each module has select(call, target) -> NativeKernel; imported when first needed.
_GENERATORS = {
    kernels.MapSpec: "map",
    kernels.ReduceSpec: "reduce",
    kernels.GemmSpec: "gemm",
    kernels.AttentionSpec: "attention",
    kernels.WindowSpec: "window",
    kernels.MoveSpec: "move",
    RecurrenceSpec: "recurrence",
    RunningSpec: "running",
    kernels.ScatterSpec: "scatter",
    kernels.SortSpec: "sort",
    SuppressSpec: "suppress",
    kernels.WeightedTakeSpec: "weighted_take",
}


def select(call: KernelCall, target: Target) -> NativeKernel:
    """The kernel for `call` on `target`."""
    module = importlib.import_module(f"backends.native.{_GENERATORS[type(call.spec)]}")
    kernel: NativeKernel = module.select(call, target)
    return kernel
