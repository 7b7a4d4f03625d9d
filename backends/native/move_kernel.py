"""What the kernels of data movement share."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.kernel import I64, VectorKernel
from backends.native.vectors import llvm_type
from compiler.dtypes import DType
from compiler.kernels import MoveSpec


@dataclass(frozen=True)
class MoveKernel(VectorKernel):
    """The NativeKernel of a MoveSpec but for `emit` and `arguments`."""

    spec: MoveSpec

    @property
    def index_dtype(self) -> DType:
        """The type of the indices of a gather or scatter."""
        assert self.spec.index is not None, f"{self.spec.kind} needs an index type"
        return self.spec.index


def load_index(builder: ir.IRBuilder, pointer: ir.Value, dtype: DType, available: ir.Value) -> ir.Value:
    """The index at an i8* as i64, counted from the end of `available` positions if negative. Valid if, unsigned, it is
    less than `available`."""
    stored = builder.load(builder.bitcast(pointer, llvm_type(dtype).as_pointer()), align=dtype.bytes)
    if dtype.bits < 64:
        stored = builder.sext(stored, I64) if dtype.kind == "int" else builder.zext(stored, I64)
    negative = builder.icmp_signed("<", stored, I64(0))
    return builder.select(negative, builder.add(stored, available), stored)
