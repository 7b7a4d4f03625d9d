"""The frame: invariants of one item that the micro-kernels and the epilogue read, a block of words on the stack.

Micro-kernels and epilogues are functions of their own, called from the macro-kernel's loops; what does not change
from call to call lies here instead of in a dozen arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import Operand
from backends.native.kernel import I64, POINTER
from compiler.dtypes import DType

FRAME = I64.as_pointer()
_FIELDS = ("a_row", "a_k", "b_k", "b_panel", "prefetch_step", "segment", "k", "column_sums", "scales", "zeros", "group",
           "first", "a_end", "late_tile", "late_pitch", "late_rows", "late_columns", "late_m", "late_n")  # fmt: skip


@dataclass(frozen=True)
class Member:
    """An epilogue operand or output: element type and stride class along N."""

    dtype: DType
    stride_class: str


class Frame:
    """Reads and writes the frame at an i64*. Strides are in bytes but for the operands' column strides (elements)."""

    def __init__(self, builder: ir.IRBuilder, words: ir.Value) -> None:
        self.builder, self.words = builder, words

    @staticmethod
    def allocate(builder: ir.IRBuilder, members: int) -> Frame:
        """A frame for `members` epilogue operands and outputs."""
        return Frame(builder, builder.alloca(I64, size=len(_FIELDS) + 3 * members))

    def set(self, field: str, value: ir.Value) -> None:
        """Write one invariant."""
        self._store(_FIELDS.index(field), value)

    def get(self, field: str) -> ir.Value:
        """Read one invariant."""
        return self._load(_FIELDS.index(field))

    def set_base(self, member: int, base: ir.Value) -> None:
        """Where a member's element (0, 0) lies for this item's batch."""
        self._store(len(_FIELDS) + 3 * member, self.builder.ptrtoint(base, I64))

    def set_strides(self, member: int, row: ir.Value, column: ir.Value) -> None:
        """A member's row stride in bytes and column stride in elements."""
        self._store(len(_FIELDS) + 3 * member + 1, row)
        self._store(len(_FIELDS) + 3 * member + 2, column)

    def operand(self, member: int, what: Member) -> tuple[Operand, ir.Value]:
        """A member as an Operand, and its row stride in bytes."""
        first = len(_FIELDS) + 3 * member
        base = self.builder.inttoptr(self._load(first), POINTER)
        return Operand(what.dtype, what.stride_class, base, self._load(first + 2)), self._load(first + 1)

    def _store(self, index: int, value: ir.Value) -> None:
        self.builder.store(value, self.builder.gep(self.words, [I64(index)]))

    def _load(self, index: int) -> ir.Value:
        return self.builder.load(self.builder.gep(self.words, [I64(index)]))


def move(builder: ir.IRBuilder, pointer: ir.Value, offset: ir.Value) -> ir.Value:
    """The i8* `pointer` moved by `offset` bytes."""
    if isinstance(offset, ir.Constant) and offset.constant == 0:
        return pointer
    return builder.gep(pointer, [offset])
