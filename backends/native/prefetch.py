"""Asking for cache lines before they are needed."""

from __future__ import annotations

from llvmlite import ir

from backends.native.vectors import I32, intrinsic

CACHE_LINE = 64


def prefetch_line(builder: ir.IRBuilder, pointer: ir.Value, write: bool = False) -> None:
    """Ask for the cache line at an i8*, into L2 or, to `write` it soon, into L1; harmless at any address."""
    kind = ir.PointerType()
    intrinsic(builder, "prefetch", ir.VoidType(), [pointer, I32(int(write)), I32(3 if write else 2), I32(1)], [kind])
