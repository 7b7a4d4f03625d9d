"""Quantizations move in front of what only moves elements: fewer bytes are moved, and they end where they can become
part of the kernel that computes their operand."""

from __future__ import annotations

from compiler import dtypes
from compiler.builder import Builder
from compiler.ir import Graph, Node, Value
from compiler.rewrite import Replacement, rewrite
from compiler.types import TensorType

BYTES = (dtypes.int8, dtypes.uint8)
MOVES = frozenset({"transpose", "reshape", "onnx_reshape", "squeeze", "unsqueeze", "flatten", "identity"})
_LIFTED = MOVES | {"expand", "concat", "pool"}


def lift(graph: Graph) -> Graph:
    """`graph` with quantizations by one scale in front of moves, maximum pools and concatenations that only they
    read. The largest of quantized numbers is the largest of the numbers, quantized."""
    return rewrite(graph, {"quantize_linear": _Lift(graph)})


class _Lift:
    """The rewriting rule; knows who produces and who reads what."""

    def __init__(self, graph: Graph) -> None:
        self._producers = graph.producers()
        self._readers = {name: len(nodes) for name, nodes in graph.consumers().items()}
        self._results = {value.name for value in graph.outputs}
        self._ordered = False  # whether the quantization at hand is known to keep order

    def __call__(self, b: Builder, node: Node) -> Replacement:
        scale = node.inputs[1]
        if scale is None or not is_scalar(scale) or node.output.type.dtype not in BYTES:  # type: ignore[union-attr]
            return None
        known = b.constants.get(scale.name)
        self._ordered = known is not None and bool((known > 0).all())
        return None if self._moved(node.inputs[0]) is None else self._quantized(b, node, node.inputs[0])

    def _quantized(self, b: Builder, node: Node, x: Value | None) -> Value:
        moved = self._moved(x)
        if moved is None:
            return b.emit(node.op, x, *node.inputs[1:], **node.attrs)
        count = len(moved.inputs) if moved.op == "concat" else 1
        parts = [self._quantized(b, node, v) for v in moved.inputs[:count]]
        with b.at(*moved.where):
            return b.emit(moved.op, *parts, *moved.inputs[count:], **moved.attrs)

    def _moved(self, value: Value | None) -> Node | None:
        """The move that makes `value`, if nobody else reads it."""
        node = self._producers.get(value.name) if value is not None else None
        if node is None or node.op not in _LIFTED:
            return None
        if node.op == "pool" and (node.attrs["fn"] != "max" or not self._ordered):
            return None
        name = node.output.name
        return node if self._readers.get(name, 0) == 1 and name not in self._results else None


def is_scalar(value: Value | None) -> bool:
    """Whether a value is known to have one element."""
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return False
    return all(size == 1 for size in value.type.shape)
