"""The core op of a product whose rows come in groups with a matrix each (mixture of experts)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from compiler.errors import IndexOutOfRange
from compiler.expr import Expr, arg
from compiler.ir import Node
from compiler.lowering.products import accumulator, lower_grouped_matmul
from compiler.op import Call, Sample, op
from compiler.ops.product_reference import exact_product, finish
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("grouped_matmul", attrs={"epilogue": (), "splits": 0})
class GroupedMatmul:
    """x [T, K] in groups of rows, group e times w[e] of w [E, K, N]; then the epilogue. ends [E] (int32 or int64)
    says where each group's rows end, ascending; rows from the last end on are products of nothing, zeros. `splits` is
    matmul's.

    Which rows belong to a group is read when running: it decides no shape, no plan and no code. Raises IndexOutOfRange
    for ends that descend or lie outside 0..T.
    """

    def infer(call: Call) -> list[TensorType]:
        dtype, x, w, ends = call.same_dtype(0, 1), call.tensor(0), call.tensor(1), call.tensor(2)
        if not dtype.is_float and not dtype.is_integer:
            call.dtype_error(f"operands are {dtype}; expected numbers")
        if ends.dtype not in (dtypes.int32, dtypes.int64):
            call.dtype_error(f"the groups' ends are {ends.dtype}; expected int32 or int64")
        if x.shape is None or w.shape is None or ends.shape is None:
            call.shape_error(f"x is {x}, w {w} and ends {ends}; expected known ranks")
        if (len(x.shape), len(w.shape), len(ends.shape)) != (2, 3, 1):
            call.shape_error(f"x is {x}, w {w} and ends {ends}; expected [T, K], [E, K, N] and [E]")
        call.same_size(x.shape[1], w.shape[1], "K (columns of x, rows of w)")
        call.same_size(ends.shape[0], w.shape[0], "the number of groups (of ends, of w)")
        shape = (x.shape[0], w.shape[2])
        return [TensorType(e.dtype, shape) for e in call.attrs["epilogue"]] or [TensorType(dtype, shape)]

    def reference(
        x: np.ndarray, w: np.ndarray, ends: np.ndarray, *extra: np.ndarray, epilogue: Sequence[Expr], splits: int
    ) -> Any:
        dtype = dtypes.from_numpy(x.dtype)
        product = np.zeros((x.shape[0], w.shape[2]), np.float64 if dtype.is_float else accumulator(dtype).numpy)
        for rows, matrix in zip(row_groups(ends, x.shape[0]), w, strict=True):
            product[rows] = exact_product(x[rows], matrix, None)
        return finish(product, x, w, None, epilogue, extra)

    def lower(node: Node, low: Lowering) -> None:
        lower_grouped_matmul(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        for name, groups in (("", [2, 2, 7, 9]), ("all", [9, 9, 9, 9]), ("none", [0, 0, 0, 0]), ("rest", [1, 4, 4, 5])):
            yield Sample((draw(9, 5), draw(4, 5, 18), np.array(groups, np.int32)), {}, 16, name)
        wide = draw(3, 17, 4).astype(np.float64).swapaxes(1, 2)
        yield Sample((draw(13, 4).astype(np.float64), wide, np.array([6, 6, 13])), {}, 16, "transposed")
        narrow = tuple(v.astype(dtypes.bfloat16.numpy) for v in (draw(6, 7), draw(2, 7, 5)))
        yield Sample((*narrow, np.array([2, 5])), {}, 16, "bfloat16")
        for dtype in (np.int8, np.uint16, np.int64):
            limits = np.iinfo(dtype)
            whole = tuple(rng.integers(limits.min, limits.max, shape, dtype) for shape in ((6, 7), (3, 7, 5)))
            yield Sample((*whole, np.array([2, 2, 5])), name=np.dtype(dtype).name)
        sums = {"epilogue": (arg(0, dtypes.float32) * 0.5 + arg(1, dtypes.float32),)}
        yield Sample((draw(9, 5), draw(4, 5, 18), np.array([3, 3, 4, 8]), draw(9, 18)), sums, 16, "epilogue")
        yield Sample((draw(0, 4), draw(2, 4, 3), np.array([0, 0])), {}, 16, "no-rows")
        yield Sample((draw(3, 0), draw(2, 0, 5), np.array([1, 2])), {}, 16, "no-depth")


def row_groups(ends: np.ndarray, rows: int) -> list[slice]:
    """The rows of each group. Raises IndexOutOfRange where `ends` descend or lie outside 0..`rows`."""
    stops = [0, *(int(end) for end in ends)]
    if stops != sorted(stops) or stops[-1] > rows:
        raise IndexOutOfRange(f"groups of rows end at {stops[1:]}; expected ascending numbers in 0..{rows}")
    return [slice(start, stop) for start, stop in pairwise(stops)]
