"""Recognise attention: a product, softmax of a function of it over its last axis, and a product with the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.expr import Expr, apply, arg, cast, const, kept, select, stat, substitute, walk
from compiler.ir import Node, Value
from compiler.ops.core_products import accumulator
from compiler.passes.fuse_products import epilogue_of
from compiler.passes.fuse_rules import Operands, full_shape, places, rewire, shape_of
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.fuse import Fusion


def absorb(fusion: Fusion, i: int, node: Node) -> bool:
    """Replace the matmul at position `i` by attention if it multiplies softmax(score(q @ k^T)) by values."""
    found = _match(fusion, i, node)
    if found is None:
        return False
    q, k = found.product.inputs[:2]
    assert q is not None and k is not None
    fusion.replace(found.product_at, None)
    fusion.replace(found.softmax_at, None)
    sources = _Sources(fusion)
    if q is not k:
        k = sources.unscaled(k)
    keys = sources.untransposed(k)
    if keys is None:
        keys = _transposed(fusion, found.softmax_at, k, found.product)
    elif keys.name != q.name:
        keys, q = sources.unscaled(keys), sources.unscaled(q)
    score = found.score
    if sources.scale != 1.0:
        dot = arg(0, accumulator(q.type.dtype))  # type: ignore[union-attr]
        score = substitute(score, {dot: dot * sources.scale})
    where = places(*sources.absorbed, found.product, found.softmax, node)
    attrs = {"score": score, "zero_rows": found.zero_rows}
    fusion.replace(i, Node("attention", (q, keys, node.inputs[1], *found.extras), node.outputs, attrs, where))
    return True


@dataclass(frozen=True)
class _Pattern:
    """A softmax of a product that only a second product reads, and its score as an expression of the dot products and
    `extras`."""

    product_at: int
    product: Node
    softmax_at: int
    softmax: Node
    score: Expr
    extras: tuple[Value | None, ...]
    zero_rows: str


def _match(fusion: Fusion, i: int, node: Node) -> _Pattern | None:
    weights, values = fusion.producer(node.inputs[0]), node.inputs[1]
    if len(node.inputs) != 2 or node.attrs["epilogue"] or node.attrs["acc"] or weights is None:
        return None
    at, softmax = weights
    found = softmax_operand(softmax) if softmax.op == "reduce" else None
    if found is None or fusion.still_wanted(softmax, i) or values.name == softmax.output.name:  # type: ignore[union-attr]
        return None
    operand, zero_rows = found
    source = _product(fusion, at, softmax)
    if source is None:
        return None
    number, product_at, product = source
    if accumulator(product.inputs[0].type.dtype) != accumulator(values.type.dtype):  # type: ignore[union-attr]
        return None  # a kernel sums both products in one type
    rank = len(shape_of(product.output))
    if any(len(shape_of(v)) != rank for v in (*product.inputs[:2], values, node.output) if v is not None):
        return None
    extras = Operands(product.inputs[2:])
    replacements: dict[int, Expr] = {number: epilogue_of(product)}
    for j, value in enumerate(softmax.inputs):
        if j != number and value is not None:
            replacements[j] = arg(extras.number(value) + 1, value.type.dtype)  # type: ignore[union-attr]
    (score,) = rewire((operand,), replacements)
    if any(n.op == "index" and n.value < rank - 2 for n in walk(score)):
        return None  # kernels know the positions in one matrix only
    score = cast(score, accumulator(score.dtype))
    return _Pattern(product_at, product, at, softmax, score, tuple(extras.values), zero_rows)


def softmax_operand(node: Node) -> tuple[Expr, str] | None:
    """What a reduce node takes the softmax of over its last axis, and which rows it makes zero (see AttentionSpec).

    None where it does something else.
    """
    attrs = node.attrs
    rank = len(full_shape(node))
    stages = attrs["stages"]
    if [a % rank for a in attrs["axes"]] != [rank - 1] or len(stages) != 2 or len(attrs["elements"]) != 1:
        return None
    operand = stages[0].expr
    if stages[0].fn != "max" or stages[1].fn != "sum" or not operand.dtype.is_float or attrs["rows"]:
        return None
    shifted = apply("exp", apply("sub", operand, stat(0, operand.dtype)))
    element, total = attrs["elements"][0], stat(1, operand.dtype)
    if stages[1].expr is not shifted:
        return None
    for weight in (apply("div", shifted, total), apply("div", kept(1, operand.dtype), total)):
        if element is weight:
            return operand, "none"
        if element is select(apply("ne", weight, weight), const(0.0, operand.dtype), weight):
            return operand, "undefined"
    return None


def _product(fusion: Fusion, at: int, softmax: Node) -> tuple[int, int, Node] | None:
    """The one operand of the softmax that is a matmul's only result: its number, position and node."""
    full = full_shape(softmax)
    for number, value in enumerate(softmax.inputs):
        found = fusion.producer(value)
        if value is None or found is None or found[1].op != "matmul" or shape_of(value) != full:
            continue
        if fusion.only_read_by(value, at) and len(found[1].outputs) == 1 and not found[1].attrs["acc"]:
            return number, found[0], found[1]
    return None


class _Sources:
    """Where queries and keys come from: what only the product needed of them is absorbed.

    Factors go into `scale`, for the score to apply.
    """

    def __init__(self, fusion: Fusion) -> None:
        self.scale = 1.0
        self.absorbed: list[Node] = []
        self._fusion = fusion

    def unscaled(self, value: Value) -> Value:
        """`value` without a multiplication by a constant."""
        found = self._unshared(value, "map")
        expr = found[1].attrs["outputs"][0] if found is not None else None
        if found is None or expr.op != "mul" or {a.op for a in expr.args} != {"arg", "const"}:
            return value
        source = found[1].inputs[0]
        if len(found[1].inputs) != 1 or source is None or shape_of(source) != shape_of(value):
            return value
        self.scale *= next(a.value for a in expr.args if a.op == "const")
        return self._absorb(found, source)

    def untransposed(self, k: Value) -> Value | None:
        """The keys [.., S, E] where `k` is their transpose."""
        found = self._fusion.producer(k)
        if found is None or found[1].op != "transpose" or tuple(found[1].attrs["perm"]) != _swap(k):
            return None
        source = found[1].inputs[0]
        assert source is not None
        unshared = self._unshared(k, "transpose")
        return source if unshared is None else self._absorb(unshared, source)

    def _unshared(self, value: Value, op: str) -> tuple[int, Node] | None:
        """What makes `value`, if that is one node of that op and nothing is left that reads it."""
        found = self._fusion.producer(value)
        if found is None or found[1].op != op or len(found[1].outputs) != 1:
            return None
        wanted = self._fusion.readers.get(value.name) or value.name in self._fusion.results
        return None if wanted else found

    def _absorb(self, found: tuple[int, Node], source: Value) -> Value:
        self._fusion.replace(found[0], None)
        self.absorbed.append(found[1])
        return source


def _swap(k: Value) -> tuple[int, ...]:
    rank = len(shape_of(k))
    return (*range(rank - 2), rank - 1, rank - 2)


def _transposed(fusion: Fusion, at: int, k: Value, product: Node) -> Value:
    """Transpose `k` at a free position."""
    perm = _swap(k)
    type = TensorType(k.type.dtype, tuple(shape_of(k)[p] for p in perm))  # type: ignore[union-attr]
    keys = Value(f"{product.output.name}.keys", type)
    fusion.replace(at, Node("transpose", (k,), (keys,), {"perm": perm}, product.where))
    return keys
