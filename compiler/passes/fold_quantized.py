"""Fold quantized: a model whose tensors are quantized and dequantized again (QDQ) computes on the bytes.

In this order:
1. Constants are folded up to where they are dequantized: weights kept in float and quantized by the model are bytes
   from here on.
2. A quantization moves to the front of moves, maximum pools and concatenations, next to what computes its operand.
3. In node order: a dequantization moves behind moves and maximum pools. Products and convolutions of two dequantized
   operands become exact ones of bytes (ops/quant_products.py) times the product of the scales, in float32: what follows
   (bias, activation, residual sum, quantization) is for `fuse` to put into their epilogues. A quantization of what was
   quantized alike is nothing; one after a folded product multiplies where it would divide, which may round a tie to
   the other side.
4. Numbers that are quantized and dequantized with nobody else reading the bytes are rounded, and never become bytes.
What does not fit stays in float, and the ledger says why.
"""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.dce import dce
from compiler.passes.fold import fold
from compiler.passes.fold_quantized_held import hold
from compiler.passes.fold_quantized_lift import lift
from compiler.passes.fold_quantized_rules import QuantizedRules
from compiler.rewrite import rewrite

_QUANTIZED = frozenset({"dequantize_linear"})


def fold_quantized(graph: Graph) -> Graph:
    """`graph` with its quantized products on bytes; itself where nothing is dequantized."""
    if not any(node.op in _QUANTIZED for node in graph.nodes):
        return graph
    graph = lift(fold(graph, keep=_QUANTIZED))
    rules = QuantizedRules(graph)
    return dce(hold(dce(rewrite(graph, rules.table())), rules.sources))
