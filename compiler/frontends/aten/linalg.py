"""ATen's linear algebra on small matrices, and torch.einsum whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.dims import Dim
from compiler.expr import Expr, apply, cast, const, index, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    pointwise,
    reshape,
    shape_of,
    swap_last,
    tensor_type,
    unsupported,
)
from compiler.ir import Value
from compiler.ops.elimination import LARGEST


def _check(b: AtenBuilder, x: Value, what: str) -> None:
    n = shape_of(x)[-1]
    if isinstance(n, Dim) or n > LARGEST:
        raise unsupported(b, f"{what} of matrices of {n} rows; expected a fixed number of at most {LARGEST}")


@aten("aten.linalg_det.default", "aten.det.default")
def _det(b: AtenBuilder, x: Value) -> Value:
    _check(b, x, "the determinant")
    return b.emit("det", x)


@aten("aten.linalg_slogdet.default", "aten.slogdet.default")
def _slogdet(b: AtenBuilder, x: Value) -> tuple[Value, ...]:
    _check(b, x, "the determinant")
    return b.emit_many("slogdet", (x,), {}, ("sign", "size"))


@aten("aten.logdet.default")
def _logdet(b: AtenBuilder, x: Value) -> Value:
    """NaN where the determinant is negative."""
    sign, size = _slogdet(b, x)
    negative = const(float("nan"), b.dtype)
    return pointwise(b, (sign, size), lambda s, n: select(apply("lt", s, const(0, s.dtype)), negative, n))


@aten("aten.linalg_inv.default", "aten.inverse.default")
def _inverse(b: AtenBuilder, x: Value) -> Value:
    """Where torch raises (a singular matrix) the result is NaN."""
    _check(b, x, "the inverse")
    n = shape_of(x)[-1]
    assert isinstance(n, int)
    return b.emit("solve", x, b.constant(np.eye(n, dtype=tensor_type(x).dtype.numpy), "identity"))


@aten("aten.linalg_solve.default")
def _solve(b: AtenBuilder, x: Value, y: Value, *, left: bool = True) -> Value:
    """A right side of one dimension less than the matrices is a stack of vectors. Singular ones as for the inverse."""
    _check(b, x, "a linear system")
    if not left:
        return swap_last(b, b.emit("solve", swap_last(b, x), swap_last(b, y)))
    rank = tensor_type(y).rank
    if rank == 1 or (rank == tensor_type(x).rank - 1 and shape_of(y) == shape_of(x)[:-1]):
        solved = b.emit("solve", x, reshape(b, y, [*shape_of(y), 1]))
        return reshape(b, solved, shape_of(solved)[:-1])
    return b.emit("solve", x, y)


@aten("aten.linalg_cholesky.default", "aten.cholesky.default")
def _cholesky(b: AtenBuilder, x: Value, upper: bool = False) -> Value:
    """NaN where torch raises (a matrix that is not positive definite)."""
    _check(b, x, "the Cholesky factor")
    factor = b.emit("cholesky", swap_last(b, x) if upper else x)
    return swap_last(b, factor) if upper else factor


@aten("aten.linalg_solve_triangular.default")
def _solve_triangular(
    b: AtenBuilder, x: Value, y: Value, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Value:
    """Only the triangle named is read, and not its diagonal where it is taken to be ones."""
    _check(b, x, "a triangular system")
    rank = tensor_type(x).rank
    row, column = index(rank - 2), index(rank - 1)

    def triangle(e: Expr) -> Expr:
        inside = apply("le" if upper else "ge", row, column)
        kept = select(inside, e, const(0, e.dtype))
        return select(apply("eq", row, column), const(1, e.dtype), kept) if unitriangular else kept

    matrix = pointwise(b, (x,), triangle)
    if left:
        return b.emit("solve", matrix, y)
    return swap_last(b, b.emit("solve", swap_last(b, matrix), swap_last(b, y)))


@aten("aten.linalg_matrix_power.default", "aten.matrix_power.default")
def _power(b: AtenBuilder, x: Value, n: int) -> Value:
    """Whole powers by squaring; negative ones of the inverse."""
    if n == 0:
        rank = tensor_type(x).rank
        diagonal = apply("eq", index(rank - 2), index(rank - 1))
        return b.emit("map", outputs=(cast(diagonal, b.dtype),), shape=shape_of(x))
    base, result = (_inverse(b, x) if n < 0 else x), None
    for digit in reversed(bin(abs(n))[2:]):
        if digit == "1":
            result = base if result is None else b.emit("matmul", base, result)
        base = b.emit("matmul", base, base)
    assert result is not None
    return result


@aten("aten.einsum.default")
def _einsum(b: AtenBuilder, equation: str, operands: Sequence[Value], *, path: Sequence[int] | None = None) -> Value:
    """`path` says in which order torch would multiply: it changes no more than rounding."""
    return b.emit("einsum", *operands, equation=equation)
