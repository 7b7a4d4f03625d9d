"""Fold weights: a product with a weight that the model dequantizes reads the weight as it is stored.

matmul(x, dequantize_linear(codes, ..)) and Gemm alike, the weight transposed or not, become block_matmul where codes of
4 or 8 bits, scales and zero points are constants and a scale serves a block along K, a column, or all. So do products
with bytes that are only converted: where a column's scale is applied to the product. No bit of a result depends on it:
memory holds an eighth to a quarter of the bytes, and so does what a product of few rows reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.ir import Graph, Node, Value
from compiler.lowering.products import accumulator
from compiler.op import lookup
from compiler.ops.core_blocks import ACTIVATIONS, CODES, has_kernel
from compiler.passes.dce import dce
from compiler.rewrite import Replacement, rewrite
from compiler.types import TensorType

_MOVES = frozenset({"reshape", "transpose", "slice", "expand", "squeeze", "unsqueeze", "concat", "cast", "map"})


def fold_weights(graph: Graph) -> Graph:
    """`graph` with weights that products dequantize read as codes; itself where there are none."""
    if not any(node.op == "dequantize_linear" or _converts(node) for node in graph.nodes):
        return graph
    graph = rewrite(graph, {"gemm": _Rules(graph).gemm})
    return dce(rewrite(graph, {"matmul": _Rules(graph).matmul}))


@dataclass(frozen=True)
class _Weight:
    """Operands 1 to 3 of a block_matmul, and its group."""

    codes: Value
    scales: Value
    zeros: Value | None
    group: int


class _Rules:
    def __init__(self, graph: Graph) -> None:
        self._producers = {value.name: node for node in graph.nodes for value in node.outputs if value.name}
        self._weights: dict[tuple[str, bool], _Weight | None] = {}

    def gemm(self, b: Builder, node: Node) -> Replacement:
        """As the product it is, whose weight may be turned."""
        decompose = lookup("gemm").decompose
        weight = self._weight(b, node.inputs[1], bool(node.attrs["transB"]))
        return None if weight is None or decompose is None else decompose(b, node)

    def matmul(self, b: Builder, node: Node) -> Replacement:
        """x @ w, whatever its epilogue."""
        x, w, *extra = node.inputs
        assert x is not None and isinstance(x.type, TensorType)
        if x.type.shape is None or len(x.type.shape) < 2 or x.type.dtype not in ACTIVATIONS:
            return None
        weight = self._weight(b, w, False)
        if weight is None or node.attrs["acc"] not in (None, accumulator(x.type.dtype)):
            return None
        operands = (x, weight.codes, weight.scales, weight.zeros, *extra)
        attrs = {"group": weight.group, "epilogue": node.attrs["epilogue"]}
        return b.emit_many("block_matmul", operands, attrs, ["product"] * len(node.outputs))

    def _weight(self, b: Builder, w: Value | None, turned: bool) -> _Weight | None:
        """The dequantized weight `w`, [K, N] or, `turned`, [N, K]; products of one weight share it."""
        assert w is not None
        node = self._producers.get(w.name)
        if node is not None and node.op == "transpose" and tuple(node.attrs["perm"]) == (1, 0):
            return self._weight(b, node.inputs[0], not turned)
        if node is None or not (node.op == "dequantize_linear" or _converts(node)):
            return None
        if (w.name, turned) not in self._weights:
            read = self._read if node.op == "dequantize_linear" else self._converted
            self._weights[w.name, turned] = read(b, node, turned)
        return self._weights[w.name, turned]

    def _converted(self, b: Builder, node: Node, turned: bool) -> _Weight | None:
        """Bytes as they are: exact in every float."""
        array = self._array(b, node.inputs[0])
        if array is None or array.ndim != 2:
            return None
        array = array.T if turned else array
        k, n = array.shape
        if not has_kernel(k, k):
            return None
        return _Weight(_stored(b, array), b.constant(np.ones((1, n), np.float32), "weight_scale"), None, k)

    def _read(self, b: Builder, node: Node, turned: bool) -> _Weight | None:
        """The operands of a dequantize_linear."""
        arrays = [self._array(b, value) for value in node.inputs if value is not None]
        if any(array is None for array in arrays):
            return None
        array, scale, zero = (*arrays, None)[:3]
        assert array is not None and scale is not None
        types = [dtypes.from_numpy(a.dtype) for a in arrays]  # type: ignore[union-attr]
        if array.ndim != 2 or types[0] not in CODES or types[1] not in ACTIVATIONS or types[-1] not in types[:2]:
            return None
        along = 1 if turned else 0  # the axis of K
        k, n = array.shape[along], array.shape[1 - along]
        axis, block = node.attrs["axis"] % 2, node.attrs["block_size"]
        one, column = scale.size == 1, scale.ndim == 1 and not block and axis != along
        if not (one or column or (block and axis == along and scale.ndim == 2)):
            return None
        group = k if one or column else block
        if not has_kernel(k, group):
            return None

        def rows(parameter: np.ndarray) -> Value:
            """[groups, N]"""
            if one or column:
                parameter = np.broadcast_to(parameter.reshape(1, -1), (1, n))
            elif turned:
                parameter = parameter.T
            return b.constant(np.ascontiguousarray(parameter), "weight_scale")

        kind = _narrowest(types[0], array, zero).numpy
        codes = _stored(b, (array.T if turned else array).astype(kind, copy=False))
        return _Weight(codes, rows(scale), None if zero is None else rows(zero.astype(kind)), group)

    def _array(self, b: Builder, value: Value | None) -> np.ndarray | None:
        """The contents of a constant, or of what moves and conversions make of constants: those of large ones are not
        folded, to keep no second copy. None for anything else."""
        assert value is not None
        if value.name in b.constants:
            return b.constants[value.name]
        node = self._producers.get(value.name)
        if node is None or node.op not in _MOVES or len(node.outputs) != 1:
            return None
        arrays = [self._array(b, operand) for operand in node.inputs]
        reference = lookup(node.op).reference
        if reference is None or any(array is None for array in arrays):
            return None
        result = reference(*arrays, **node.attrs)
        return np.asarray(result[0] if isinstance(result, tuple) else result, node.output.type.dtype.numpy)  # type: ignore[union-attr]


def _converts(node: Node) -> bool:
    """Whether a node only makes floats of bytes."""
    if node.op != "map" or len(node.outputs) != 1 or len(node.inputs) != 1 or node.attrs["shape"] is not None:
        return False
    (value,) = node.attrs["outputs"]
    of_bytes = value.op == "cast" and value.args[0].op == "arg" and value.args[0].dtype in (dtypes.int8, dtypes.uint8)
    return of_bytes and value.dtype in ACTIVATIONS


def _stored(b: Builder, codes: np.ndarray) -> Value:
    return b.constant(np.ascontiguousarray(codes), "weight_codes")


def _narrowest(dtype: DType, *arrays: np.ndarray | None) -> DType:
    """The type that holds codes and zero points: torch keeps those of 4 bits in bytes."""
    least = min((int(array.min(initial=0)) for array in arrays if array is not None), default=0)
    most = max((int(array.max(initial=0)) for array in arrays if array is not None), default=0)
    if dtype == dtypes.int8 and least >= -8 and most <= 7:
        return dtypes.int4
    return dtypes.uint4 if dtype == dtypes.uint8 and most <= 15 else dtype
