"""Products whose weights are stored as codes of 8 or 4 bits, their activations as written."""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg
from compiler.ir import Node, Value
from compiler.ops.block_codes import quantize_blocks
from compiler.ops.core_blocks import has_kernel
from compiler.passes.narrow_operands import Operands, product_again

BITS = {"int8_weights": 8, "int4_weights": 4}


def why_not_codes(operands: Operands, node: Node, group: int) -> str:
    """What keeps a product from reading its weights as codes, '' if nothing."""
    if node.op == "block_matmul":
        return "its weights are codes already"
    array = operands.constant(node.inputs[1]) if node.op == "matmul" else None
    if array is None or array.ndim != 2:
        return "only a constant matrix on the right of a matrix product is stored as codes"
    if not np.isfinite(array.astype(np.float32)).all():
        return "its weights are not all finite"
    return "" if has_kernel(len(array), group) else f"groups of {group} weights; expected a multiple of 16"


def with_codes(b: Builder, operands: Operands, node: Node, precision: str, group: int) -> tuple[Value, ...]:
    """A product's results with its weights in codes: symmetric ones of 8 bits, or of 4 with zero points."""
    weight = node.inputs[1]
    bits = BITS[precision]
    codes, scales, zeros = quantize_blocks(operands.constant(weight).astype(np.float32), bits, group, bits == 8)
    parts = [b.constant(array, f"{weight.name}_{what}") for array, what in ((codes, "codes"), (scales, "scales"))]
    points = None if zeros is None else b.constant(zeros, f"{weight.name}_zeros")
    inner = Node("block_matmul", (node.inputs[0], *parts, points, *node.inputs[2:]), node.outputs,
                 {"group": min(group, codes.shape[0]), "epilogue": node.attrs["epilogue"]}, node.where)  # fmt: skip
    return product_again(b, inner, list(inner.inputs[:4]), [], lambda _: arg(0, dtypes.float32))
