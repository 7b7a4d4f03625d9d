"""The pass pipeline: one ordered list, readable as a page."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir import Graph
from compiler.kernels import Lowered
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dce import dce
from compiler.passes.decompose import decompose
from compiler.passes.fold import fold
from compiler.passes.fuse import fuse
from compiler.passes.grouped_heads import group_heads
from compiler.passes.lower import lower
from compiler.passes.precision import set_precision
from compiler.passes.verify import verify

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (
    fold,  # constants and size chains, before they multiply
    decompose,  # into core ops
    fold,  # what the decompositions computed from constants
    dce,
    canonicalize,
    fuse,
    group_heads,  # when attention is one node
    dce,
)


def optimize(graph: Graph, precision: str | None = None) -> Graph:
    """`graph` in core ops, fused. Raises ModelError where a pass breaks the graph."""
    verify(graph)
    if precision is not None:
        graph = verify(set_precision(graph, precision))
    for step in PASSES:
        graph = verify(step(graph))
    return graph


def lower_graph(graph: Graph, precision: str | None = None) -> Lowered:
    """The lowered program of an imported graph."""
    return lower(optimize(graph, precision))
