"""What of the core ops no kernel serves."""

from __future__ import annotations

from compiler import dtypes, kernels
from compiler.ir import Node, Value
from compiler.lowering.late import LateValues
from compiler.types import TensorType

_COMPUTING = frozenset({"map", "reduce", "matmul", "grouped_matmul", "conv", "pool", "attention", "top_k"})


def host_reason(node: Node, late: LateValues) -> str:
    """Why a core op must run as a Host step after all; '' where a kernel serves it."""
    if any(value.name and of_strings(value) for value in node.outputs):
        return "strings never reach a kernel"  # a move of bytes would not count references
    if node.op in _COMPUTING:
        for value in (*node.inputs, *node.outputs):
            dtype = getattr(value.type, "dtype", None) if value is not None else None
            if dtype is not None and not kernels.computes(dtype):
                return f"kernels do not compute on {dtype}"
    return late.host_reason(node)


def of_strings(value: Value) -> bool:
    """Whether a value is a tensor of strings."""
    return isinstance(value.type, TensorType) and value.type.dtype == dtypes.string
