"""What stays dequantized where it is read, after the rules: numbers whose bytes nobody else reads are only rounded, and
bytes that others read too are dequantized by who wants numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, cast, const
from compiler.ir import Graph, Node, Value
from compiler.ops.elementwise import emit_map
from compiler.ops.rounding import integer_limits
from compiler.rewrite import Replacement, rewrite


@dataclass(frozen=True)
class Source:
    """What bytes were made of: round(x * factor) or, with `divided`, round(x / factor), plus the zero point. `where`:
    the nodes that quantized."""

    x: Value
    factor: Value
    divided: bool
    where: tuple[str, ...]


def hold(graph: Graph, sources: Mapping[str, Source]) -> Graph:
    """`graph` with dequantize_linear nodes that alone read bytes of a known source rounding that instead, and all other
    such nodes moved to their first reader: what produces the bytes must not store the numbers too."""
    return _late(rewrite(graph, {"dequantize_linear": _Hold(graph, sources)}))


class _Hold:
    """The rewriting rule."""

    def __init__(self, graph: Graph, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        readers = graph.consumers()
        self._shared = {name for name, nodes in readers.items() if len(nodes) > 1}
        self._shared |= {value.name for value in graph.outputs}

    def __call__(self, b: Builder, node: Node) -> Replacement:
        x, scale, zero = (*node.inputs, None)[:3]
        source = self._sources.get(x.name) if x is not None else None
        if source is None or x is None or x.name in self._shared or node.output.type.dtype != dtypes.float32:  # type: ignore[union-attr]
            return None
        unit, point = (b.constants.get(v.name) if v is not None else np.zeros(()) for v in (scale, zero))
        if unit is None or point is None or unit.size != 1:
            return None
        f = dtypes.float32
        low, high = (limit - float(point.reshape(())) for limit in integer_limits(x.type.dtype))  # type: ignore[union-attr]
        value = cast(arg(0, source.x.type.dtype), f)  # type: ignore[union-attr]
        ratio = apply("rint", value / arg(1, f) if source.divided else value * arg(1, f))
        held = apply("min", apply("max", ratio, const(low, f)), const(high, f))
        with b.at(*dict.fromkeys((*source.where, *node.where))):
            return emit_map(b, held * float(unit.reshape(())), source.x, source.factor, hint="rounded")


def _late(graph: Graph) -> Graph:
    """`graph` with every dequantize_linear node right before the first node that reads it."""
    waiting: dict[str, Node] = {}
    nodes: list[Node] = []

    def place(value: Value | None) -> None:
        node = waiting.pop(value.name, None) if value is not None else None
        if node is not None:
            nodes.append(node)

    for node in graph.nodes:
        if node.op == "dequantize_linear":
            waiting[node.output.name] = node
            for value in node.inputs:
                place(value)
            continue
        for value in node.inputs:
            place(value)
        nodes.append(node)
    return replace(graph, nodes=(*nodes, *waiting.values()))
