"""Products and the maps that read them: what a map computes becomes the product's epilogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.expr import Expr, arg, cast
from compiler.ir import Node, Value
from compiler.ops.core_products import accumulator
from compiler.passes.fuse_rules import MAX_OPERANDS, Operands, places, rewire, shape_of, uses_index

if TYPE_CHECKING:
    from compiler.passes.fuse import Fusion

_LEADING = {"matmul": 2, "grouped_matmul": 3, "conv": 3, "block_matmul": 4}


def leading(node: Node) -> int:
    """How many operands of a product come before those of its epilogue."""
    return _LEADING[node.op]


def product_into_map(fusion: Fusion, i: int, node: Node, inner: Node) -> Node | None:
    """A map that reads a product becomes its epilogue. Where others read the product too, it keeps the outputs they
    want if the map only narrows what it reads: a store more then saves a pass."""
    exprs = node.attrs["outputs"]
    if uses_index(exprs) or shape_of(inner.output) != shape_of(node.output) or len(shape_of(node.output)) < 2:
        return None
    wanted = fusion.still_wanted(inner, i)
    if wanted and not (_narrows(node, inner) and fusion.can_move(inner, i)):
        return None
    lead = leading(inner)
    inputs: list[Value | None] = list(inner.inputs) + [None] * (lead - len(inner.inputs))
    extras = Operands(inputs[lead:])
    made = {value.name: epilogue_of(inner, number) for number, value in enumerate(inner.outputs)}
    replacements: dict[int, Expr] = {}
    for j, value in enumerate(node.inputs):
        assert value is not None
        known = made.get(value.name)
        replacements[j] = arg(extras.number(value) + 1, value.type.dtype) if known is None else known  # type: ignore[union-attr]
    if len(extras.values) > MAX_OPERANDS:
        return None
    outputs = (*wanted, *node.outputs)
    epilogue = (*(made[value.name] for value in wanted), *rewire(exprs, replacements))
    attrs = {**inner.attrs, "epilogue": epilogue}
    return Node(inner.op, (*inputs[:lead], *extras.values), outputs, attrs, places(inner, node))


def epilogue_of(node: Node, number: int = 0) -> Expr:
    """A result of a product as an expression of its accumulator (arg 0) and epilogue operands."""
    if node.attrs["epilogue"]:
        return node.attrs["epilogue"][number]
    dtype = node.output.type.dtype  # type: ignore[union-attr]
    return cast(arg(0, node.attrs.get("acc") or accumulator(dtype)), dtype)


def _narrows(node: Node, inner: Node) -> bool:
    """Whether a map does no more than convert results of a product to fewer bytes."""
    made = {value.name for value in inner.outputs}
    results = [value.type.dtype.bytes for value in node.outputs]  # type: ignore[union-attr]
    return all(
        value.name in made and value.type.dtype.bytes > max(results)  # type: ignore[union-attr]
        for value in node.inputs
        if value is not None
    )
