"""Narrow: products of floats of 32 and 16 bits run in the precision the graph's policy asks for.

It runs on fused graphs, where attention and recurrent layers are nodes of their own and products own their epilogues;
the casts and quantizing maps it adds are fused afterwards with what makes their operands. What a product does not run
in, although asked for, the ledger says with the reason. Decisions look at the graph alone, never at the machine: the
same model gives the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler import dtypes
from compiler.builder import Builder
from compiler.ir import Graph, Node, Value
from compiler.passes.narrow_bfloat import in_bfloat16
from compiler.passes.narrow_bytes import in_bytes, weight_side, why_not_bytes
from compiler.passes.narrow_operands import Operands, depth_of
from compiler.passes.narrow_weights import BITS, why_not_codes, with_codes
from compiler.policy import Calibrated, Policy

PRODUCTS = frozenset({"matmul", "conv", "grouped_matmul", "block_matmul"})
_STAYS = {
    "attention": "softmax and the products around it stay as written",
    "recurrence": "the product that a recurrent layer carries from step to step stays as written",
}
_NARROWED = frozenset({dtypes.float32, dtypes.float16, dtypes.bfloat16})
# With fewer products an element of the result, converting the operands takes longer than the products save
# (bench/narrow_nodes.py: 0.6 to 1.0 of the time in FP32 at 16, 0.9 to 1.2 at 8).
LEAST_DEPTH = 16
PIECES = 3  # of bfloat16, in which float32 goes without a remainder
# With fewer weights, finding the range of a row takes longer than its products save: 64 x 64 weights take as long in
# 8 bits as in FP32, 16 x 64 2.6 times as long, 512 x 16 0.7.
LEAST_WEIGHTS = 8192


@dataclass(frozen=True)
class Site:
    """A product of a fused graph: its key in Policy.calibrated, the imported node and op it belongs to."""

    key: str
    name: str
    op: str
    node: Node


def narrow(graph: Graph) -> Graph:
    """`graph` with products in the precisions of its policy, as it is without one."""
    if graph.policy is None:
        return graph
    found = {id(site.node): site for site in sites(graph)}
    builder = Builder(graph)
    operands = Operands(builder)
    renamed: dict[str, Value] = {}
    for node in graph.nodes:
        inputs = tuple(renamed.get(v.name, v) if v is not None else None for v in node.inputs)
        current = Node(node.op, inputs, node.outputs, node.attrs, node.where)
        site = found.get(id(node))
        results = _narrowed(builder, operands, graph.policy, site, current) if site is not None else None
        if results is None:
            builder.keep(current)
            continue
        renamed.update((old.name, new) for old, new in zip(node.outputs, results, strict=True) if old.name)
    return builder.finish([renamed.get(v.name, v) for v in graph.outputs])


def sites(graph: Graph) -> Iterator[Site]:
    """The products of a fused graph, attention and recurrent layers among them, with their keys."""
    ops = {item.name: item.op for item in graph.imported}
    counts: dict[str, int] = {}
    for node in graph.nodes:
        if node.op in PRODUCTS or node.op in _STAYS:
            name = node.place
            number = counts[name] = counts.get(name, -1) + 1
            yield Site(f"{name}#{number}" if number else name, name, ops.get(name, node.op), node)


def activation(operands: Operands, node: Node) -> Value | None:
    """The operand of a product that static quantization needs the range of: the one that is no weight."""
    if node.op not in ("matmul", "conv") or why_not_bytes(operands, node):
        return None
    side = weight_side(operands, node)
    return None if side is None else node.inputs[1 - side]


def _narrowed(b: Builder, operands: Operands, policy: Policy, site: Site, node: Node) -> tuple[Value, ...] | None:
    """What replaces a product's results, None where it stays as it is."""
    precision, why = policy.choose(site.key, site.name, site.op)
    written = node.inputs[0].type.dtype
    if written not in _NARROWED:
        if written == dtypes.float64 and precision != "fp32":
            b.remark(site.name, f"not {precision}: float64 stays float64")
        return None
    for fallback in (policy.otherwise, "fp32"):
        against = _against(operands, policy, site.key, node, precision)
        if against:
            why = f"not {precision}: {against}"
            precision = fallback
    if why:
        b.remark(site.name, why)
    with b.at(*node.where):
        if precision == "bf16x3":
            return b.keep(node, splits=PIECES)
        if precision == "bf16" and written != dtypes.bfloat16:
            return in_bfloat16(b, operands, node)
        if precision == "int8":
            return in_bytes(b, operands, node, policy.calibrated.get(site.key, Calibrated()))
        if precision in BITS:
            return with_codes(b, operands, node, precision, policy.group)
    return None


def _against(operands: Operands, policy: Policy, key: str, node: Node, precision: str) -> str:
    """Why a product cannot, or should not, run in a precision; '' if nothing speaks against it."""
    if precision == "fp32" or (precision == "bf16" and node.inputs[0].type.dtype == dtypes.bfloat16):
        return ""
    if node.op in _STAYS:
        return _STAYS[node.op]
    if precision == "bf16x3" and node.inputs[0].type.dtype != dtypes.float32:
        return f"{node.inputs[0].type.dtype} is multiplied as it is"
    if precision == "bf16x3" and node.op == "block_matmul":
        return "weights stored as codes are decoded where they are multiplied"
    if precision in BITS:
        return why_not_codes(operands, node, policy.group)
    depth = depth_of(node)
    if node.op == "conv" and node.attrs["group"] > 1 and node.inputs[1].type.shape[1] == 1:
        return "a depthwise convolution is no matrix product"
    if isinstance(depth, int) and depth < LEAST_DEPTH:
        return f"sums of {depth} products gain less than converting their operands costs"
    if precision != "int8":
        return ""
    return why_not_bytes(operands, node) or ("" if key in policy.calibrated else _too_few(operands, node))


def _too_few(operands: Operands, node: Node) -> str:
    """Whether rows are multiplied by too few weights to be worth finding their ranges."""
    side = weight_side(operands, node) if node.op == "matmul" else None
    weights = None if side is None else operands.constant(node.inputs[side])
    if weights is None or weights.shape[-2] * weights.shape[-1] >= LEAST_WEIGHTS:
        return ""
    k, n = weights.shape[-2:]
    return f"with {k} x {n} weights a row's products gain less than finding its range costs"
