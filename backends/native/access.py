"""Operands of elementwise loops: how a vector of neighbours along the vectorised axis is read and written, by stride
class, and how many lanes and how much unrolling an expression deserves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from backends.native.kernel import I8, I64, ArgumentReader
from backends.native.target import Target
from backends.native.vectors import (
    gather_vector,
    llvm_type,
    load_broadcast,
    load_vector,
    scatter_vector,
    store_vector,
)
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import COMPOSITES, Expr, walk
from compiler.kernels import BROADCAST, GENERAL, UNIT, View

COMPOSITE_COST = 25  # primitive operations in a typical transcendental


@dataclass(frozen=True)
class Operand:
    """A read or a write of a call inside a kernel. `stride` (i64, elements) only matters to the GENERAL class."""

    dtype: DType
    stride_class: str
    base: ir.Value  # i8*
    stride: ir.Value

    def address(self, builder: ir.IRBuilder, offset: ir.Value, i: ir.Value) -> ir.Value:
        """The address of element `i` of the row at byte `offset`."""
        row = builder.bitcast(builder.gep(self.base, [offset]), llvm_type(self.dtype).as_pointer())
        if self.stride_class == BROADCAST:
            return row
        return builder.gep(row, [i if self.stride_class == UNIT else builder.mul(i, self.stride)])

    def load(
        self, builder: ir.IRBuilder, offset: ir.Value, i: ir.Value, lanes: int, mask: ir.Value | None = None
    ) -> ir.Value:
        """Elements i, i + 1, ... of the row at byte `offset`, in register form."""
        address = self.address(builder, offset, i)
        if self.stride_class == BROADCAST:
            return load_broadcast(builder, address, self.dtype, lanes)
        if self.stride_class == GENERAL:
            return gather_vector(builder, address, self.stride, self.dtype, lanes, mask)
        return load_vector(builder, address, self.dtype, lanes, mask)

    def store(
        self, builder: ir.IRBuilder, value: ir.Value, offset: ir.Value, i: ir.Value, mask: ir.Value | None = None
    ) -> None:
        """Write elements i, i + 1, ... of the row at byte `offset`."""
        address = self.address(builder, offset, i)
        if self.stride_class == GENERAL:
            scatter_vector(builder, value, address, self.stride, self.dtype, mask)
        else:
            store_vector(builder, value, address, self.dtype, mask)


def operand_words(
    views: Sequence[View], classes: Sequence[str], size: Callable[[Size], int], axis: int = -1
) -> list[int | View]:
    """Argument words `read_operands` expects: each view's pointer, then its stride on `axis` if that is GENERAL."""
    words: list[int | View] = []
    for view, stride_class in zip(views, classes, strict=True):
        words.append(view)
        if stride_class == GENERAL:
            words.append(size(view.strides[axis]) if view.strides else 0)
    return words


def read_operands(reader: ArgumentReader, dtypes: Sequence[DType], classes: Sequence[str]) -> list[Operand]:
    """The operands whose words `operand_words` wrote."""
    operands = []
    for dtype, stride_class in zip(dtypes, classes, strict=True):
        base = reader.pointer(I8)
        stride = reader.integer() if stride_class == GENERAL else I64(1)
        operands.append(Operand(dtype, stride_class, base, stride))
    return operands


def vector_lanes(roots: Sequence[Expr], operands: Sequence[DType], target: Target) -> int:
    """Lanes that fill one vector register with the widest type met. Positions do not count: a comparison of two int64
    indices should not halve the vectors of a float32 expression."""
    widths = {dtype.bytes for dtype in operands}
    positions: set[Expr] = set()
    for node in walk(tuple(roots)):
        if node.op in ("index", "const") or (node.args and node.dtype.is_integer and positions.issuperset(node.args)):
            positions.add(node)
        else:
            widths.add(node.dtype.bytes)
    return max(1, target.vector // max(widths, default=8))


def cost(roots: Sequence[Expr]) -> int:
    """About how many vector instructions the expressions take."""
    return sum(COMPOSITE_COST if node.op in COMPOSITES else 1 for node in walk(tuple(roots)) if node.args)


def unroll(roots: Sequence[Expr]) -> int:
    """Vectors an iteration should handle: short bodies need several to hide loop overhead, long ones fill the
    machine alone."""
    work = cost(roots)
    return 4 if work <= 6 else 2 if work <= 16 else 1


def vector_ns(roots: Sequence[Expr], operands: int) -> float:
    """About how long one vector of the expressions takes, data in cache."""
    return 0.12 * cost(roots) + 0.2 * operands


def kernel_name(kind: str, spec: object, target: Target) -> str:
    """A symbol that is equal exactly for equal specs on equal vectors."""
    digest = hashlib.sha256(f"{spec!r} {target.vector} {target.feature_string}".encode()).hexdigest()
    return f"{kind}_v{target.vector * 8}_{digest[:12]}"
