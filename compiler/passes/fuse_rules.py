"""The pairwise fusion rules: each builds the node that does a consumer's and its producer's work, or declines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from compiler.expr import COMPOSITES, Expr, arg, kept, stat, transform, walk
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.ops.core_compute import row_shape

if TYPE_CHECKING:
    from compiler.passes.fuse import Fusion

MAX_STAGES = 6  # longer row programs gain nothing and compile slowly
MAX_OPERANDS = 12
MAX_EXPRESSIONS = 256  # in what is absorbed: a chain of any length compiles in time proportional to it


class Operands:
    """The operand list of a fused node: equal values share a number."""

    def __init__(self, values: Sequence[Value | None] = ()) -> None:
        self.values: list[Value | None] = list(values)

    def number(self, value: Value) -> int:
        """The operand number of `value`, entered if new."""
        for i, known in enumerate(self.values):
            if known is not None and known.name == value.name:
                return i
        self.values.append(value)
        return len(self.values) - 1


def shape_of(value: Value) -> tuple:
    """The known shape of a tensor value."""
    return value.type.shape  # type: ignore[union-attr,return-value]


def places(*nodes: Node) -> tuple[str, ...]:
    """The imported nodes that nodes stand for, each once, in order."""
    return tuple(dict.fromkeys(name for node in nodes for name in node.where))


def rewire(exprs: Sequence[Expr], replacements: Mapping[int, Expr]) -> tuple[Expr, ...]:
    """Expressions with operand numbers replaced by expressions."""
    return tuple(transform(e, lambda n: replacements.get(n.value) if n.op == "arg" else None) for e in exprs)


def uses_index(exprs: Sequence[Expr]) -> bool:
    """Whether a position is read somewhere."""
    return any(node.op == "index" for node in walk(tuple(exprs)))


def is_cheap(exprs: Sequence[Expr]) -> bool:
    """Whether computing the expressions more than once costs little."""
    return not any(node.op in COMPOSITES or node.op in ("div", "sqrt", "rem") for node in walk(tuple(exprs)))


@lru_cache(maxsize=64)  # every map of a chain asks the same of what comes before
def is_long(exprs: tuple[Expr, ...]) -> bool:
    """Whether the expressions are too many to be written into others."""
    return len(tuple(islice(walk(exprs), MAX_EXPRESSIONS + 1))) > MAX_EXPRESSIONS


def covers(values: Sequence[Value | None], shape: tuple) -> bool:
    """Whether the values' broadcast has the full shape by itself."""
    rank = max((len(shape_of(v)) for v in values if v is not None), default=0)
    if rank < len(shape):
        return False
    return all(
        size == 1 or any(_extent(v, axis, len(shape)) == size for v in values if v is not None)
        for axis, size in enumerate(shape)
    )


def _extent(value: Value, axis: int, rank: int) -> object:
    shape = shape_of(value)
    at = axis - (rank - len(shape))
    return shape[at] if at >= 0 else 1


def map_into_map(fusion: Fusion, i: int, node: Node, inner: Node) -> Node | None:
    """A map computes its operand itself."""
    operands, replacements = absorb_map(fusion, i, node, inner, shape_of(node.output))
    if operands is None:
        return None
    shape = shape_of(node.output)
    outputs = rewire(node.attrs["outputs"], replacements)
    attrs = {"outputs": outputs, "shape": None if covers(operands.values, shape) else shape}
    return Node("map", tuple(operands.values), node.outputs, attrs, places(inner, node))


def map_into_reduce(fusion: Fusion, i: int, node: Node, inner: Node) -> Node | None:
    """A reduction computes its operand itself."""
    full = full_shape(node)
    operands, replacements = absorb_map(fusion, i, node, inner, full)
    if operands is None or not covers(operands.values, full):
        return None
    return rebuild_reduce(node, operands, replacements, places(inner, node))


def absorb_map(
    fusion: Fusion, i: int, node: Node, inner: Node, shape: tuple
) -> tuple[Operands | None, dict[int, Expr]]:
    """Operands of `node` with those `inner` produces replaced by `inner`'s own; None where that would not pay."""
    same = shape_of(inner.output) == shape
    exprs = inner.attrs["outputs"]
    repeats = not same and (uses_index(exprs) or not is_cheap(exprs))
    if fusion.still_wanted(inner, i) or is_long(exprs) or repeats:
        return None, {}
    made = {value.name: expr for value, expr in zip(inner.outputs, exprs, strict=True)}
    operands = Operands()
    inner_numbers = {j: arg(operands.number(v), v.type.dtype) for j, v in enumerate(inner.inputs)}  # type: ignore[union-attr]
    renumbered = any(new.value != j for j, new in inner_numbers.items())
    replacements: dict[int, Expr] = {}
    for j, value in enumerate(node.inputs):
        assert value is not None
        if value.name in made:
            expr = made[value.name]
            replacements[j] = rewire((expr,), inner_numbers)[0] if renumbered else expr
        else:
            replacements[j] = arg(operands.number(value), value.type.dtype)  # type: ignore[union-attr]
    return (operands if len(operands.values) <= MAX_OPERANDS else None), replacements


def full_shape(node: Node) -> tuple:
    """The shape a reduce node walks: the broadcast of its operands, numbers winning over symbols."""
    rank = max(len(shape_of(v)) for v in node.inputs if v is not None)
    result: list = [1] * rank
    for value in node.inputs:
        for axis in range(rank):
            size = _extent(value, axis, rank)  # type: ignore[arg-type]
            if result[axis] == 1 or (isinstance(size, int) and size != 1):
                result[axis] = size
    return tuple(result)


def rebuild_reduce(node: Node, operands: Operands, replacements: Mapping[int, Expr], where: tuple[str, ...]) -> Node:
    """A reduce node over other operands."""
    attrs = node.attrs
    stages = tuple(replace(s, expr=rewire((s.expr,), replacements)[0]) for s in attrs["stages"])
    fresh = {
        **attrs,
        "stages": stages,
        "elements": rewire(attrs["elements"], replacements),
        "rows": rewire(attrs["rows"], replacements),
    }
    return Node("reduce", tuple(operands.values), node.outputs, fresh, where)


def reduce_into_map(fusion: Fusion, i: int, node: Node, inner: Node) -> Node | None:
    """A map over a reduction's results becomes more outputs of the row program: of its elements where the map spans the
    full shape, of its rows where it spans one value a row."""
    full, shape = full_shape(inner), shape_of(node.output)
    attrs = inner.attrs
    row = row_shape(full, attrs["axes"], True)
    spans_rows = shape == row and shape != full
    if (shape != full and not spans_rows) or not fusion.can_move(inner, i):
        return None
    split = len(attrs["elements"])
    from_elements = {v.name for v in inner.outputs[:split]} & {v.name for v in node.inputs if v is not None}
    if (spans_rows and (from_elements or uses_index(node.attrs["outputs"]))) or not _rows_usable(inner, node):
        return None
    operands, replacements = _spliced(node, inner)
    if len(operands.values) > MAX_OPERANDS:
        return None
    fresh = rewire(node.attrs["outputs"], replacements)
    elements, rows = _wanted_outputs(fusion, i, inner)
    if rows and not attrs["keepdims"] and spans_rows:
        return None
    target = rows if spans_rows else elements
    target.extend(zip(node.outputs, fresh, strict=True))
    return reduce_node(operands, attrs["stages"], elements, rows, attrs, places(inner, node), keepdims=spans_rows)


def _spliced(node: Node, inner: Node) -> tuple[Operands, dict[int, Expr]]:
    """The operands of reduce `inner` and whatever else `node` reads, and `node`'s operands as expressions of them."""
    made = dict(zip((v.name for v in inner.outputs), (*inner.attrs["elements"], *inner.attrs["rows"]), strict=True))
    operands = Operands(inner.inputs)
    replacements: dict[int, Expr] = {}
    for j, value in enumerate(node.inputs):
        assert value is not None
        replacements[j] = made.get(value.name) or arg(operands.number(value), value.type.dtype)  # type: ignore[union-attr]
    return operands, replacements


def _wanted_outputs(fusion: Fusion, i: int, inner: Node) -> tuple[list[tuple[Value, Expr]], list[tuple[Value, Expr]]]:
    """The element and row outputs of reduce `inner` that somebody besides node `i` needs."""
    split = len(inner.attrs["elements"])
    wanted = {value.name for value in fusion.still_wanted(inner, i)}
    elements = zip(inner.outputs[:split], inner.attrs["elements"], strict=True)
    rows = zip(inner.outputs[split:], inner.attrs["rows"], strict=True)
    return [p for p in elements if p[0].name in wanted], [p for p in rows if p[0].name in wanted]


def _rows_usable(inner: Node, node: Node) -> bool:
    """Row results that the consumer reads must have kept their axes, to line up by broadcasting."""
    rows = {v.name for v in inner.outputs[len(inner.attrs["elements"]) :]}
    return inner.attrs["keepdims"] or not any(v is not None and v.name in rows for v in node.inputs)


def reduce_node(
    operands: Operands,
    stages: Sequence[Stage],
    elements: Sequence[tuple[Value, Expr]],
    rows: Sequence[tuple[Value, Expr]],
    attrs: Mapping[str, object],
    where: tuple[str, ...],
    keepdims: bool = False,
) -> Node:
    """A reduce node from (value, expression) outputs."""
    return Node(
        "reduce",
        tuple(operands.values),
        tuple(value for value, _ in (*elements, *rows)),
        {
            "axes": attrs["axes"],
            "keepdims": attrs["keepdims"] or keepdims,
            "stages": tuple(stages),
            "elements": tuple(expr for _, expr in elements),
            "rows": tuple(expr for _, expr in rows),
        },
        where,
    )


def reduce_into_reduce(fusion: Fusion, i: int, node: Node, inner: Node) -> Node | None:
    """Two row programs over the same axes of the same space become one; the second's stages follow the first's."""
    full = full_shape(inner)
    a, b = inner.attrs, node.attrs
    rank = len(full)
    if full_shape(node) != full or sorted(x % rank for x in a["axes"]) != sorted(x % rank for x in b["axes"]):
        return None
    if (
        not fusion.can_move(inner, i)
        or not _rows_usable(inner, node)
        or len(a["stages"]) + len(b["stages"]) > MAX_STAGES
    ):
        return None
    elements, rows = _wanted_outputs(fusion, i, inner)
    if rows and b["rows"] and a["keepdims"] != b["keepdims"]:
        return None
    operands, replacements = _spliced(node, inner)
    if len(operands.values) > MAX_OPERANDS:
        return None
    later = rebuild_reduce(_renumber_stages(node, len(a["stages"])), operands, replacements, places(inner, node))
    count = len(b["elements"])
    elements += zip(node.outputs[:count], later.attrs["elements"], strict=True)
    rows += zip(node.outputs[count:], later.attrs["rows"], strict=True)
    attrs = {"axes": a["axes"], "keepdims": b["keepdims"] if b["rows"] else a["keepdims"]}
    return reduce_node(operands, (*a["stages"], *later.attrs["stages"]), elements, rows, attrs, later.where)


def _renumber_stages(node: Node, by: int) -> Node:
    """A reduce node whose stage numbers start at `by`."""

    def moved(expr: Expr) -> Expr:
        leaves = {"stat": stat, "kept": kept}
        return transform(expr, lambda n: leaves[n.op](n.value + by, n.dtype) if n.op in leaves else None)

    attrs = {
        **node.attrs,
        "stages": tuple(replace(s, expr=moved(s.expr)) for s in node.attrs["stages"]),
        "elements": tuple(moved(e) for e in node.attrs["elements"]),
        "rows": tuple(moved(e) for e in node.attrs["rows"]),
    }
    return Node(node.op, node.inputs, node.outputs, attrs, node.where)
