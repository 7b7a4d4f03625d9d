"""Recognise attention: a product, softmax of a function of it over its last axis, and a product with the values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.expr import Expr, apply, arg, const, kept, select, stat, substitute
from compiler.ir import Node, Value
from compiler.passes.fuse_rules import Operands, epilogue_of, full_shape, places, rewire, shape_of
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.fuse import Fusion


def absorb(fusion: Fusion, i: int, node: Node) -> bool:
    """Replace the matmul at position `i` by attention if it multiplies softmax(score(q @ k^T)) by values."""
    weights = fusion.producer(node.inputs[0])
    if len(node.inputs) != 2 or node.attrs["epilogue"] or weights is None or weights[1].op != "reduce":
        return False
    at, softmax = weights
    score = softmax_operand(softmax)
    if score is None or fusion.still_wanted(softmax, i):
        return False
    found = _product(fusion, at, softmax)
    if found is None:
        return False
    number, product_at, product = found
    q, k = product.inputs[:2]
    v = node.inputs[1]
    assert q is not None and k is not None and v is not None
    rank = len(shape_of(q))
    if not rank == len(shape_of(k)) == len(shape_of(v)) == len(shape_of(node.output)) or rank < 2:
        return False
    extras = Operands(product.inputs[2:])
    replacements: dict[int, Expr] = {number: epilogue_of(product)}
    for j, value in enumerate(softmax.inputs):
        if j != number and value is not None:
            replacements[j] = arg(extras.number(value) + 1, value.type.dtype)  # type: ignore[union-attr]
    (score,) = rewire((score,), replacements)
    fusion.replace(product_at, None)
    (q, q_scale), (k, k_scale) = _unscaled(fusion, q), _unscaled(fusion, k)
    keys = _transposed_source(fusion, k)
    if keys is not None:
        keys, late_scale = _unscaled(fusion, keys)
        k_scale *= late_scale
    if q_scale * k_scale != 1.0:
        dot = arg(0, score.dtype)
        score = substitute(score, {dot: dot * (q_scale * k_scale)})
    if keys is None:
        keys = _insert_transpose(fusion, at, k, product)
    else:
        fusion.replace(at, None)
    inputs = (q, keys, v, *extras.values)
    fusion.replace(i, Node("attention", inputs, node.outputs, {"score": score}, places(product, softmax, node)))
    return True


def softmax_operand(node: Node) -> Expr | None:
    """What a reduce node takes the softmax of over its last axis; None where it does something else."""
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
        # "safe" softmax: a row without any weight is zero instead of NaN, which is what attention gives.
        zero = const(0.0, operand.dtype)
        safe = select(apply("ne", weight, weight), zero, weight)
        if element in (weight, safe):
            return operand
    return None


def _product(fusion: Fusion, at: int, softmax: Node) -> tuple[int, int, Node] | None:
    """The one operand of the softmax that is a matmul's only result: its number, position and node."""
    full = full_shape(softmax)
    for number, value in enumerate(softmax.inputs):
        found = fusion.producer(value)
        if value is None or found is None or found[1].op != "matmul" or shape_of(value) != full:
            continue
        if fusion.only_read_by(value, at) and len(found[1].outputs) == 1:
            return number, found[0], found[1]
    return None


def _unscaled(fusion: Fusion, value: Value) -> tuple[Value, float]:
    """`value` without a multiplication by a constant that only it needs, and the constant: scores can be scaled instead of
    queries and keys."""
    found = fusion.producer(value)
    if found is None or found[1].op != "map" or len(found[1].inputs) != 1 or fusion.readers.get(value.name):
        return value, 1.0
    (expr,) = found[1].attrs["outputs"]
    source = found[1].inputs[0]
    if expr.op != "mul" or {a.op for a in expr.args} != {"arg", "const"} or value.name in fusion.results:
        return value, 1.0
    if source is None or shape_of(source) != shape_of(value):
        return value, 1.0
    fusion.replace(found[0], None)
    return source, next(a.value for a in expr.args if a.op == "const")


def _transposed_source(fusion: Fusion, k: Value) -> Value | None:
    """The keys [.., S, E] where `k` is their transpose."""
    found = fusion.producer(k)
    rank = len(shape_of(k))
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    if found is None or found[1].op != "transpose" or tuple(found[1].attrs["perm"]) != swapped:
        return None
    return found[1].inputs[0]


def _insert_transpose(fusion: Fusion, at: int, k: Value, product: Node) -> Value:
    """Transpose `k` at the place the softmax leaves free."""
    shape = shape_of(k)
    rank = len(shape)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    type = TensorType(k.type.dtype, tuple(shape[p] for p in perm))  # type: ignore[union-attr]
    keys = Value(f"{k.name}.keys", type)
    fusion.replace(at, Node("transpose", (k,), (keys,), {"perm": perm}, product.where))
    return keys
