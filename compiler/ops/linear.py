"""Gemm and Einsum: transposes, reshapes and one core matmul."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import NUMBER, check_kind, emit_map, in_float64, operand, widened
from compiler.ops.onnx_types import without
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


@op("gemm", onnx=OnnxRow("Gemm", _GEMM, upgrades=((7, without("broadcast")),)), attrs=_GEMM)
class Gemm:
    """alpha * a @ b + beta * c, a and b transposed where asked; c, if given, broadcasts to the product."""

    def infer(call: Call) -> list[TensorType]:
        a, b = call.tensor(0), call.tensor(1)
        dtype = call.same_dtype(*range(len(call.inputs)))
        check_kind(call, dtype, NUMBER)
        if a.shape is None or b.shape is None:
            return [TensorType(dtype, (call.fresh(), call.fresh()))]
        if len(a.shape) != 2 or len(b.shape) != 2:
            call.shape_error(f"a is {a}, b is {b}; expected two matrices")
        rows, inner = reversed(a.shape) if call.attrs["transA"] else a.shape
        inner_b, columns = reversed(b.shape) if call.attrs["transB"] else b.shape
        call.same_size(inner, inner_b, "K (columns of a, rows of b; check transA and transB)")
        c = call.optional(2)
        if c is not None and c.shape is not None:
            call.broadcast((rows, columns), c.shape)
        return [TensorType(dtype, (rows, columns))]

    def reference(
        a: np.ndarray,
        b: np.ndarray,
        c: np.ndarray | None = None,
        *,
        alpha: float,
        beta: float,
        transA: int,
        transB: int,
    ) -> np.ndarray:
        def run(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
            product = (a.T if transA else a) @ (b.T if transB else b)
            product = product if alpha == 1 else product * alpha
            return product if not c else product + (c[0] if beta == 1 else c[0] * beta)

        return in_float64(run, (a, b) if c is None else (a, b, c), {}, a.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        left, right, c = (*node.inputs, None)[:3]
        left = b.emit("transpose", left, perm=(1, 0)) if node.attrs["transA"] else left
        right = b.emit("transpose", right, perm=(1, 0)) if node.attrs["transB"] else right
        product = b.emit("matmul", left, right)
        alpha, beta, dtype = node.attrs["alpha"], node.attrs["beta"], product.type.dtype
        if c is None and alpha == 1:
            return product
        result = widened(arg(0, dtype))
        result = result if alpha == 1 else _times(result, alpha)
        if c is not None:
            summand = operand(1, c)
            result = result + (summand if beta == 1 else _times(summand, beta))
        return emit_map(b, cast(result, dtype), product, *([] if c is None else [c]), hint="gemm")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        a, b, c = (rng.standard_normal(s) for s in ((3, 5), (5, 4), (4,)))
        for dtype in (np.float32, np.float64):
            yield Sample(tuple(x.astype(dtype) for x in (a, b, c)), tolerance=16, name=np.dtype(dtype).name)
        turned = tuple(np.ascontiguousarray(x).astype(np.float32) for x in (a.T, b.T))
        yield Sample(turned, {"transA": 1, "transB": 1}, 16, "transposed")
        scaled = {"alpha": 0.5, "beta": -2.0}
        yield Sample((*(x.astype(np.float32) for x in (a, b)), np.ones((3, 1), np.float32)), scaled, 16, "scaled")
        whole = tuple(rng.integers(-5, 5, s) for s in ((2, 3), (3, 2), (1,)))
        yield Sample(whole, name="int64")


def _times(x: Any, factor: float) -> Any:
    if x.dtype.is_float:
        return x * factor
    return cast(cast(x, dtypes.float64) * factor, x.dtype)


def parse_equation(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of each operand and of the result, one character an axis; an ellipsis becomes capital letters.

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
        return operands, right.replace("...", "".join(spare[:longest]))
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


@op(
    "einsum",
    onnx=OnnxRow("Einsum", {"equation": REQUIRED}),
    attrs={"equation": REQUIRED},
    host_reason="more than two operands, or a label twice in one term",
)
class Einsum:
    """Sums of products by an equation, as NumPy's einsum."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(*range(len(call.inputs)))
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

    def decompose(b: Builder, node: Node) -> Value | None:
        values = [v for v in node.inputs if v is not None]
        operands, result = parse_equation(node.attrs["equation"], [len(known_shape(v)) for v in values])
        if len(values) > 2 or any(len(set(term)) != len(term) for term in operands):
            return None
        parts = list(zip(values, operands, strict=True))
        needed = [set(result).union(*(o for j, o in enumerate(operands) if j != i)) for i in range(len(operands))]
        parts = [_sum_out(b, *part, keep) for part, keep in zip(parts, needed, strict=True)]
        if len(parts) == 1:
            return _arrange(b, *parts[0], result)
        return _product(b, parts[0], parts[1], result)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

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
        ):
            yield Sample(tuple(draw(*s) for s in shapes), {"equation": equation}, 32, equation)


def _sum_out(b: Builder, x: Value, labels: str, keep: set[str]) -> tuple[Value, str]:
    """x summed over the axes whose label nobody else has."""
    gone = [i for i, label in enumerate(labels) if label not in keep]
    if not gone:
        return x, labels
    total = b.emit("reduce_sum", x, b.constant(np.array(gone)), keepdims=0)
    return total, "".join(label for label in labels if label in keep)


def _arrange(b: Builder, x: Value, labels: str, order: str) -> Value:
    """x with its axes in `order`, which has the same labels."""
    return x if labels == order else b.emit("transpose", x, perm=tuple(labels.index(label) for label in order))


def _product(b: Builder, left: tuple[Value, str], right: tuple[Value, str], result: str) -> Value:
    """Two operands as a batched matmul: batch labels, rows, columns, and the summed labels between them."""
    (x, x_labels), (y, y_labels) = left, right
    shared = [label for label in x_labels if label in y_labels]
    batch, summed = [s for s in shared if s in result], [s for s in shared if s not in result]
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
    parted = b.emit("reshape", product, b.sizes([sizes[s] for s in (*batch, *rows, *columns)]))
    return _arrange(b, parted, "".join((*batch, *rows, *columns)), result)
