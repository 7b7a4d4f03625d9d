"""GEMM calls on arrays for tests: what a spec, views and packed weights make of A, B and epilogue operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from backends.native import gemm
from backends.native.target import Target, host
from compiler import dtypes
from compiler.dims import symbol
from compiler.dtypes import DType
from compiler.expr import Expr, arg
from compiler.kernels import GemmSpec, KernelCall
from tests.backends.native import harness


def axis_of(array: np.ndarray) -> str:
    """The matrix axis with unit stride."""
    row, column = (stride == array.itemsize for stride in array.strides[-2:][::-1])
    return "row" if row else "column" if column else "general"


def spec_of(
    a: np.ndarray,
    b: np.ndarray,
    operands: Sequence[np.ndarray],
    outs: Sequence[np.ndarray],
    epilogue: tuple[Expr, ...],
    constant: bool,
    window: int = 0,
    ends: np.ndarray | None = None,
    fill: int = 0,
) -> GemmSpec:
    """The spec of a product of arrays already broadcast to their batch axes."""
    batch = b.ndim - 2 if ends is None else 0
    kinds = dtypes.from_numpy(a.dtype), dtypes.from_numpy(b.dtype)
    return GemmSpec(
        *kinds, accumulator_of(b.dtype), batch, "general" if window else axis_of(a), axis_of(b), constant, epilogue,
        tuple(dtypes.from_numpy(o.dtype) for o in operands), tuple(harness.stride_class(o) for o in operands),
        tuple("general" if harness.stride_class(o) == "broadcast" else harness.stride_class(o) for o in outs), window,
        dtypes.from_numpy(ends.dtype) if ends is not None else None, fill,
    )  # fmt: skip


def accumulator_of(kind: np.dtype) -> DType:
    """What products of `kind` are summed in."""
    dtype = dtypes.from_numpy(np.dtype(kind))
    narrow = {"float": dtypes.float32, "int": dtypes.int32, "uint": dtypes.int32}
    return narrow[dtype.kind] if dtype.bits < 32 else dtype


def multiply(
    a: np.ndarray,
    b: np.ndarray,
    *,
    operands: Sequence[np.ndarray] = (),
    epilogue: tuple[Expr, ...] = (),
    constant: bool = False,
    target: Target | None = None,
    threads: int = 1,
    symbolic: bool = False,
    out_order: Sequence[int] | None = None,
    window: int = 0,
    params: Sequence[int] = (),
    shape: Sequence[int] | None = None,
    ends: np.ndarray | None = None,
    fill: int = 0,
    status: int = 0,
    spec: GemmSpec | None = None,
    depth_known: bool = True,
    out_orders: Sequence[Sequence[int] | None] | None = None,
    place: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, ...]:
    """Run the product; every output lies between canaries that are checked. `symbolic`: select the kernel as if M and
    N were not known, and K neither without `depth_known`; `ends`: of groups of rows; `status`: what the kernel must
    report. `spec`: what is asked for, if it is not to be read off the arrays; `out_orders`: an order for each output;
    `place`: puts outputs and packed weights where they shall lie, instead of between canaries."""
    target = target or host()
    batch = np.broadcast_shapes(a.shape[: b.ndim - 2], b.shape[:-2]) if ends is None else ()
    if ends is None:
        a = a if window else np.broadcast_to(a, (*batch, *a.shape[-2:]))
        b = np.broadcast_to(b, (*batch, *b.shape[-2:]))
    shape = tuple(shape or (*batch, a.shape[-2], b.shape[-1]))
    operands = [np.broadcast_to(o, shape) for o in operands]
    kinds = [e.dtype.numpy for e in epilogue] or [accumulator_of(b.dtype).numpy]
    orders = out_orders or [out_order] * len(kinds)
    guarded = [harness.guarded(shape, kind, order) for kind, order in zip(kinds, orders, strict=True)]
    outs = [place(out) if place else out for out, _ in guarded]
    spec = spec or spec_of(a, b, operands, outs, epilogue, constant, window, ends, fill)
    read = [a, b, *operands, *([] if ends is None else [ends])]
    arrays = [*read, *outs]
    views = [harness.view_of(array, f"b{i}") for i, array in enumerate(arrays)]
    reads, writes = tuple(views[: len(read)]), tuple(views[len(read) :])
    call = KernelCall(spec, reads, writes, tuple(params))
    if symbolic:
        unknown = (*shape[:-2], symbol("m"), symbol("n"))
        asked = replace(call, writes=tuple(replace(view, shape=unknown) for view in writes))
        if not depth_known:
            deep = (
                replace(reads[0], shape=(*a.shape[:-1], symbol("k"))),
                replace(reads[1], shape=(*b.shape[:-2], symbol("k"), b.shape[-1])),
            )
            asked = replace(asked, reads=(*deep, *reads[2:]))
    kernel = _kernel(gemm.select(asked if symbolic else call, target))
    for packed in kernel.packed_reads(call):
        panels = kernel.pack(call, packed, arrays[packed])
        arrays[packed] = place(panels) if place else panels
    planned = kernel.arguments(call, int, threads)
    memory = {view.buffer: array for view, array in zip(views, arrays, strict=True)}
    assert harness.execute(kernel, target, planned, memory) == status
    for _, guards in guarded:
        harness.assert_guards(guards)
    return tuple(outs)


@cache
def _kernel(kernel: gemm.GemmKernel) -> gemm.GemmKernel:
    # One object per kernel: the harness keeps compiled code by it.
    return kernel


def accumulator(kind: np.dtype) -> Expr:
    """Argument 0 of an epilogue."""
    return arg(0, dtypes.from_numpy(np.dtype(kind)))
