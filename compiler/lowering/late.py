"""Values that depend on sizes alone but that symbols do not decide: evaluated with numbers while planning.

An integer chain from sizes and small constants (say a Where on a comparison of sizes) is *late*: its nodes run in
NumPy when a plan is made. A node whose result shape such a value decides gets fresh symbols from inference; the
plan binds them from a `result_shape` node, which repeats the inference with numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import TRACKED_ELEMENTS
from compiler.ir import Graph, Node, Value
from compiler.op import REQUIRED, Call, Op, lookup, op
from compiler.types import TensorType, of_array

FROM_DATA = "the result's shape comes from computed data"
_SOURCES = ("sizes", "shape_of")
_ARITHMETIC = ("map", "reduce")  # what comparisons and choices of sizes decompose to


class LateValues:
    """Which values of a graph are known while planning, and the nodes to evaluate for them, in order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self._deciding = _deciding(graph)
        self._known: set[str] = {n for n, a in graph.constants.items() if a.size <= TRACKED_ELEMENTS}

    def claims(self, node: Node) -> bool:
        """Whether `node` is evaluated while planning. Called once a node, in order."""
        if node.op in _SOURCES:
            self._known.update(value.name for value in node.outputs)
            self.nodes.append(node)
            return False
        entry = lookup(node.op)
        if not (entry.tracks_values or self._decides(node)) or not node.inputs or not self._all_known(node.inputs):
            return False
        if any(not isinstance(v.type, TensorType) or _is_data(v.type) or self._is_number(v) for v in node.outputs):
            return False
        self._known.update(value.name for value in node.outputs)
        self.nodes.append(node)
        return True

    def host_reason(self, node: Node) -> str:
        """Why a node with a kernel still needs a Host step: a shape from computed data, or an unknown rank."""
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        if any(not isinstance(v.type, TensorType) or v.type.shape is None for v in values):
            return "the rank is not known before the data is"
        entry = lookup(node.op)
        undecided = [
            node.inputs[i] for i in entry.value_operands if i < len(node.inputs) and node.inputs[i] is not None
        ]
        if not undecided or not self._fresh(node):
            return ""
        if not self._all_known(undecided):
            return FROM_DATA
        self.nodes.append(result_shape(node))
        return ""

    def _decides(self, node: Node) -> bool:
        """Whether a node is arithmetic on what decides a shape, of a fixed number of elements as such things have."""
        if node.op not in _ARITHMETIC or not any(value.name in self._deciding for value in node.outputs):
            return False
        shapes = [value.type.shape for value in node.outputs if isinstance(value.type, TensorType)]
        return all(shape is not None and dims.is_static(shape) for shape in shapes)

    def _is_number(self, value: Value) -> bool:
        """Whether a value is a float that decides no shape: kernels compute it. Scales of sizes do decide one."""
        return value.type.dtype.is_float and value.name not in self._deciding  # type: ignore[union-attr]

    def _all_known(self, values: Any) -> bool:
        return all(v is None or v.name in self._known for v in values)

    def _fresh(self, node: Node) -> bool:
        """Whether inference had to invent symbols for the result."""
        sources = {n for v in node.inputs if v is not None for n in _names(v)}
        sources |= {n for size in node.attrs.values() if isinstance(size, tuple) for n in _attr_names(size)}
        return any(_names(v) - sources for v in node.outputs)


def _is_data(type: TensorType) -> bool:
    """Whether a tensor is too large to be about sizes: a repeated constant, which kernels read in place."""
    return type.shape is not None and dims.is_static(type.shape) and type.elements > TRACKED_ELEMENTS  # type: ignore[operator]


def _deciding(graph: Graph) -> set[str]:
    """Values whose contents take part in deciding the shape of a result."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if any(value.name in found for value in node.outputs):
            found.update(value.name for value in node.inputs if value is not None)
        operands = (node.inputs[i] for i in lookup(node.op).value_operands if i < len(node.inputs))
        found.update(value.name for value in operands if value is not None)
    return found


def _names(value: Value) -> set[str]:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return {name for size in shape or () if isinstance(size, dims.Dim) for name in size.names}


def _attr_names(sizes: tuple[Any, ...]) -> set[str]:
    return {name for size in sizes if isinstance(size, dims.Dim) for name in size.names}


def result_shape(node: Node) -> Node:
    """A node over the same operands whose outputs have the shapes of `node`'s, for binding symbols."""
    return Node("result_shape", node.inputs, node.outputs, {"node": node}, node.where)


@op("result_shape", attrs={"node": REQUIRED})
class ResultShape:
    """Inference repeated with numbers: an empty-strided array of the shape each output of `node` will have.

    Operands arrive as arrays where contents are known, else as empty-strided arrays of the right shape.
    """

    def infer(call: Call) -> list[TensorType]:
        return [value.type for value in call.attrs["node"].outputs]

    def reference(*arrays: np.ndarray | None, node: Node) -> tuple[np.ndarray, ...]:
        entry: Op = lookup(node.op)

        def invent() -> dims.Dim:
            raise ValueError(f"{node.place}: the shape of {node.op} is not decided by its operands")

        call = Call(
            op=node.op,
            inputs=tuple(of_array(a) if a is not None else None for a in arrays),
            attrs=node.attrs,
            values=arrays,
            place=node.place,
            outputs=len(node.outputs),
            fresh=invent,
            guard=lambda a, b: None,
        )
        return tuple(_phantom(t) for t in entry.infer(call) if isinstance(t, TensorType))


def _phantom(type: TensorType) -> np.ndarray:
    return np.broadcast_to(np.zeros((), type.dtype.numpy), type.shape)  # type: ignore[arg-type]
