"""The pass pipeline: one ordered list, readable as a page."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir import Graph
from compiler.kernels import Lowered
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dce import dce
from compiler.passes.decompose import decompose
from compiler.passes.fold import fold
from compiler.passes.fold_quantized import fold_quantized
from compiler.passes.fold_weights import fold_weights
from compiler.passes.fuse import fuse
from compiler.passes.grouped_heads import group_heads
from compiler.passes.lower import lower
from compiler.passes.narrow import narrow
from compiler.passes.share_constants import share_constants
from compiler.passes.verify import verify

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (
    fold_quantized,  # before constants that are dequantized become floats
    fold_weights,
    fold,  # constants and size chains, before they multiply
    decompose,  # into core ops
    fold,  # what the decompositions computed from constants
    dce,
    canonicalize,
    fuse,
    group_heads,  # when attention is one node
    dce,
)
NARROWING: tuple[Pass, ...] = (
    narrow,  # products in the precisions of the policy
    fuse,  # conversions of their operands
    dce,
)


def optimize(graph: Graph) -> Graph:
    """`graph` in core ops, fused. Raises ModelError where a pass breaks the graph."""
    verify(graph)
    for step in (*PASSES, *(NARROWING if graph.policy else ())):
        graph = verify(step(graph))
    return graph


def lower_graph(graph: Graph) -> Lowered:
    """The lowered program of an imported graph."""
    return share_constants(lower(optimize(graph)))
