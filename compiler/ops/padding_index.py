"""Where the elements of a mirrored, repeated or wrapped axis come from."""

from __future__ import annotations

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, const, index
from compiler.ir import Value
from compiler.ops.binary import floor_mod
from compiler.ops.indexing import Operands


def padding_index(b: Builder, mode: str, size: Size, before: Size, after: Size) -> Value:
    """The source positions [before + size + after] of an axis padded in a mode of `pad`; negative sides crop first."""
    crop_before, crop_after = dims.maximum(0 - before, 0), dims.maximum(0 - after, 0)
    lead, kept = dims.maximum(before, 0), size - crop_before - crop_after
    if isinstance(kept, int) and isinstance(crop_before, int) and dims.is_static((before, after)):
        row = np.arange(crop_before, crop_before + kept, dtype=np.int64)
        return b.constant(np.pad(row, (lead, max(after, 0)), mode=mode), "pad_index")  # type: ignore[call-overload]
    operands = Operands(b)
    position = index(0) - operands.size(lead)
    source = _SOURCES[mode](position, operands.size(kept)) + operands.size(crop_before)
    return b.emit("map", *operands.values, hint="pad_index", outputs=(source,), shape=(size + before + after,))


def _edge(position: Expr, size: Expr) -> Expr:
    return apply("max", apply("min", position, size - 1), const(0, dtypes.int64))


def _reflect(position: Expr, size: Expr) -> Expr:
    """There and back again: a row of n repeats after 2 (n - 1) elements."""
    period = (size - 1) * 2
    turned = floor_mod(position, period)
    return apply("min", turned, period - turned)


_SOURCES = {"edge": _edge, "reflect": _reflect, "wrap": floor_mod}
