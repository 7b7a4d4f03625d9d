"""Einsum: sums over single operands, diagonals, then products of two at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import apply, arg, cast, const, index, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import NUMBER, check_kind, emit_map, in_float64, operand, wide
from compiler.ops.shape import known_shape
from compiler.types import TensorType

Term = tuple[Value, str]  # a tensor and the labels of its axes


def parse_equation(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of each operand and of the result, one character an axis; an ellipsis becomes Greek letters.

    Raises ValueError where the equation does not fit the ranks.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"equation {equation!r} has {len(terms)} terms for {len(ranks)} operands")
    spare = [chr(c) for c in range(0x3B1, 0x3B1 + 64)]
    longest = max((rank - len(t) + 3 for t, rank in zip(terms, ranks, strict=True) if "..." in t), default=0)
    operands = []
    for term, rank in zip(terms, ranks, strict=True):
        hidden = rank - len(term) + 3
        operands.append(term.replace("...", "".join(spare[longest - hidden : longest])) if "..." in term else term)
        if len(operands[-1]) != rank:
            raise ValueError(f"term {term!r} of {equation!r} does not fit rank {rank}")
    if arrow:
        result = right.replace("...", "".join(spare[:longest]))
        if len(set(result)) != len(result) or not set(result) <= set("".join(operands)):
            raise ValueError(f"the result of {equation!r} has a label twice, or one that no operand has")
        return operands, result
    letters = sorted({c for term in terms for c in term.replace(".", "")})
    once = [c for c in letters if sum(term.count(c) for term in operands) == 1]
    return operands, "".join(spare[:longest]) + "".join(once)


def _label_sizes(call: Call, operands: Sequence[str]) -> dict[str, Size]:
    sizes: dict[str, Size] = {}
    for i, labels in enumerate(operands):
        for label, size in zip(labels, call.tensor(i).shape or (), strict=True):
            known = sizes.setdefault(label, size)
            if known == 1 or size == 1:
                sizes[label] = size if known == 1 else known
            else:
                sizes[label] = call.same_size(known, size, f"size of {label!r}")
    return sizes


@op("einsum", onnx=OnnxRow("Einsum", {"equation": REQUIRED}), attrs={"equation": REQUIRED})
class Einsum:
    """Sums of products by an equation, as NumPy's einsum."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(*range(len(call.inputs)))
        check_kind(call, dtype, NUMBER)
        shapes = [call.tensor(i).shape for i in range(len(call.inputs))]
        if any(shape is None for shape in shapes):
            return [TensorType(dtype, None)]
        try:
            operands, result = parse_equation(call.attrs["equation"], [len(s) for s in shapes])  # type: ignore[arg-type]
        except ValueError as error:
            call.shape_error(str(error))
        sizes = _label_sizes(call, operands)
        return [TensorType(dtype, tuple(sizes[label] for label in result))]

    def reference(*arrays: np.ndarray, equation: str) -> np.ndarray:
        return in_float64(lambda *a: np.einsum(equation, *a), arrays, {}, arrays[0].dtype)

    def decompose(b: Builder, node: Node) -> Value:
        values = [v for v in node.inputs if v is not None]
        operands, result = parse_equation(node.attrs["equation"], [len(known_shape(v)) for v in values])
        dtype = values[0].type.dtype
        if len(values) > 2:  # products of products are rounded once, too
            values = [v if wide(dtype) == dtype else emit_map(b, operand(0, v), v) for v in values]
        parts = [_diagonal(b, value, labels) for value, labels in zip(values, operands, strict=True)]
        while len(parts) > 1:
            first, second = _cheapest(parts, result)
            others = [part for i, part in enumerate(parts) if i not in (first, second)]
            kept = set(result).union(*(labels for _, labels in others))
            parts = [*others, _product(b, _sum_out(b, parts[first], kept | set(parts[second][1])),
                                       _sum_out(b, parts[second], kept | set(parts[first][1])), kept)]  # fmt: skip
        total, labels = _sum_out(b, parts[0], set(result))
        total = _arrange(b, total, labels, result)
        return total if total.type.dtype == dtype else emit_map(b, cast(arg(0, total.type.dtype), dtype), total)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for equation, *shapes in (
            ("ij,jk->ik", (3, 4), (4, 5)),
            ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
            ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
            ("ij->ji", (3, 4)),
            ("ij->", (3, 4)),
            ("i,j->ij", (3,), (4,)),
            ("i,i", (5,), (5,)),
            ("bij,b->jb", (2, 3, 4), (2,)),
            ("ij,kj->", (3, 4), (2, 4)),
            ("bij , bjk", (2, 3, 4), (2, 4, 5)),
            ("...ii->...i", (2, 3, 3)),
            ("ii", (4, 4)),
            ("iij,ji->j", (3, 3, 2), (2, 3)),
            ("aaa->a", (3, 3, 3)),
            ("ij,jk,kl->il", (3, 4), (4, 5), (5, 2)),
            ("abc,ad,be,cf->def", (2, 3, 4), (2, 5), (3, 6), (4, 7)),
            ("bi,bj,bk->ijk", (2, 3), (2, 4), (2, 5)),
            ("...i,...i,i->...", (2, 3, 4), (3, 4), (4,)),
            ("Ab,b", (2, 3), (3,)),
            ("i,,i->i", (3,), (), (3,)),
            ("ij,ij->i", (3, 1), (3, 4)),
            ("...,...->...", (2, 3), (3,)),
        ):
            yield Sample(tuple(_drawn(rng, s) for s in shapes), {"equation": equation}, 32, equation)
        chain = {"equation": "ij,jk,kl->il"}
        half = tuple(_drawn(rng, (4, 4)).astype(np.float16) for _ in range(3))
        yield Sample(half, chain, 1, "float16 of three")
        yield Sample(tuple(rng.integers(-9, 9, (3, 3)) for _ in range(3)), chain, name="int64 of three")


def _drawn(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _diagonal(b: Builder, x: Value, labels: str) -> Term:
    """x without its elements off the diagonal of axes that share a label."""
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is None:
        return x, labels
    rank, shape = len(labels), known_shape(x)
    i, j = [at for at, label in enumerate(labels) if label == twice][:2]
    order = [a for a in range(rank) if a not in (i, j)] + [i, j]
    rest = "".join(labels[a] for a in order[:-1])
    turned = b.emit("transpose", x, perm=tuple(order))
    outer, n = tuple(shape[a] for a in order[:-2]), shape[i]
    if isinstance(n, int) and shape[j] == n:
        flat = b.emit("reshape", turned, b.sizes((*outer, n * n)))
        whole, ones = (0,) * (rank - 2), (1,) * (rank - 2)
        taken = b.emit("slice", flat, starts=(*whole, 0), sizes=(*outer, n), steps=(*ones, n + 1))
        return _diagonal(b, taken, rest)
    square = b.emit("expand", turned, b.sizes((*outer, *[shape[j] if n == 1 else n] * 2)))
    value = operand(0, square)
    alone = select(apply("eq", index(rank - 1), index(rank - 2)), value, const(0, value.dtype))
    row = cast(stat(0, value.dtype), x.type.dtype)
    stages = (Stage("sum", alone),)
    taken = b.emit("reduce", square, axes=(rank - 1,), keepdims=False, stages=stages, rows=(row,))
    return _diagonal(b, taken, rest)


def _cheapest(parts: Sequence[Term], result: str) -> tuple[int, int]:
    """The two operands to multiply next: those with the smallest product, where all sizes are numbers."""
    if len(parts) == 2 or not all(dims.is_static(known_shape(value)) for value, _ in parts):
        return 0, 1
    sizes: dict[str, int] = {}
    for value, labels in parts:
        for label, size in zip(labels, known_shape(value), strict=True):
            assert isinstance(size, int)
            sizes[label] = max(sizes.get(label, 1), size)

    def elements(pair: tuple[int, int]) -> int:
        others = set(result).union(*(labels for i, (_, labels) in enumerate(parts) if i not in pair))
        joined = set(parts[pair[0]][1]) | set(parts[pair[1]][1])
        return math.prod(sizes[label] for label in joined & others)

    return min(combinations(range(len(parts)), 2), key=elements)


def _sum_out(b: Builder, part: Term, kept: set[str]) -> Term:
    """A term summed over the axes whose label nobody else has."""
    x, labels = part
    gone = [i for i, label in enumerate(labels) if label not in kept]
    if not gone:
        return x, labels
    total = b.emit("reduce_sum", x, b.constant(np.array(gone)), keepdims=0)
    return total, "".join(label for label in labels if label in kept)


def _arrange(b: Builder, x: Value, labels: str, order: str) -> Value:
    """x with its axes in `order`, which has the same labels."""
    return x if labels == order else b.emit("transpose", x, perm=tuple(labels.index(label) for label in order))


def _product(b: Builder, left: Term, right: Term, kept: set[str]) -> Term:
    """Two operands as a batched matmul: batch labels, rows, columns, and the summed labels between them; as a map where
    nothing is summed."""
    (x, x_labels), (y, y_labels) = left, right
    shared = [label for label in x_labels if label in y_labels]
    batch, summed = [s for s in shared if s in kept], [s for s in shared if s not in kept]
    if not summed:
        return _outer(b, left, right)
    rows, columns = [s for s in x_labels if s not in shared], [s for s in y_labels if s not in shared]
    sizes: dict[str, Size] = {}
    for value, labels in (left, right):
        for label, size in zip(labels, known_shape(value), strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]

    def matrix(value: Value, labels: str, middle: Sequence[str], last: Sequence[str]) -> Value:
        turned = _arrange(b, value, labels, "".join((*batch, *middle, *last)))
        spread = b.emit("expand", turned, b.sizes([sizes[s] for s in (*batch, *middle, *last)]))
        joined = [dims.product(sizes[s] for s in part) for part in (middle, last)]
        return b.emit("reshape", spread, b.sizes([*(sizes[s] for s in batch), *joined]))

    product = b.emit("matmul", matrix(x, x_labels, rows, summed), matrix(y, y_labels, summed, columns))
    order = (*batch, *rows, *columns)
    return b.emit("reshape", product, b.sizes([sizes[s] for s in order])), "".join(order)


def _outer(b: Builder, left: Term, right: Term) -> Term:
    """All products of elements that agree in the labels both have."""
    order = left[1] + "".join(label for label in right[1] if label not in left[1])
    spread = []
    for value, labels in (left, right):
        turned = _arrange(b, value, labels, "".join(label for label in order if label in labels))
        sizes = dict(zip(labels, known_shape(value), strict=True))
        spread.append(b.emit("reshape", turned, b.sizes([sizes.get(label, 1) for label in order])))
    dtype = left[0].type.dtype
    return emit_map(b, cast(operand(0, spread[0]) * operand(1, spread[1]), dtype), *spread, hint="product"), order
