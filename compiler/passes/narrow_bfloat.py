"""Products in bfloat16, summed in float32."""

from __future__ import annotations

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.passes.narrow_operands import Operands, product_again


def in_bfloat16(b: Builder, operands: Operands, node: Node) -> tuple[Value, ...]:
    """A product's results with both operands rounded to bfloat16; sums, epilogue and results keep their types."""
    acc = dtypes.float32
    if node.op == "block_matmul":  # weights are decoded to the activation's type
        x = operands.beneath_moves(node.inputs[0], lambda v: rounded(b, v), "bf16")
        return product_again(b, node, [x, *node.inputs[1:4]], [], lambda _: arg(0, acc))
    a, w = (operands.beneath_moves(value, lambda v: rounded(b, v), "bf16") for value in node.inputs[:2])
    if node.op == "grouped_matmul":
        return product_again(b, node, [a, w, node.inputs[2]], [], lambda _: arg(0, acc))
    if node.op == "matmul" or len(node.inputs) < 3 or node.inputs[2] is None:
        return product_again(b, node, [a, w], [], lambda _: arg(0, acc))
    bias = channel_operand(b, node, node.inputs[2])
    return product_again(b, node, [a, w], [bias], lambda first: arg(0, acc) + cast(arg(first, bias.type.dtype), acc))


def rounded(b: Builder, value: Value) -> Value:
    """A value as bfloat16; a constant at once."""
    if value.name in b.constants:
        return b.constant(b.constants[value.name].astype(dtypes.bfloat16.numpy), value.name)
    return b.emit("map", value, outputs=(cast(arg(0, value.type.dtype), dtypes.bfloat16),), hint=value.name)


def channel_operand(b: Builder, node: Node, vector: Value) -> Value:
    """A vector with an element an output channel, shaped as an epilogue operand of a convolution."""
    if node.attrs["channels_last"]:
        return vector
    spatial = len(node.output.type.shape) - 2
    return b.emit("reshape", vector, b.sizes((-1, *[1] * spatial)))
