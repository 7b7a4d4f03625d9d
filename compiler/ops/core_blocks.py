"""The core op of a product whose weight is stored as codes of 4 or 8 bits, with a scale for each group along K; and
how weights become such codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, arg, cast
from compiler.ir import Node
from compiler.lowering.products import lower_block_matmul
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.elementwise import emit_map, operand
from compiler.ops.product_reference import exact_product, finish
from compiler.ops.quant import spread
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

CODES = (dtypes.int4, dtypes.uint4, dtypes.int8, dtypes.uint8)
ACTIVATIONS = (dtypes.float32, dtypes.bfloat16, dtypes.float16)
GROUP_STEP = 16  # rows that kernels decode together at the most: groups are whole multiples of it


def dequantized(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, group: int, dtype: DType
) -> np.ndarray:
    """The weights [K, N] that codes stand for: (code - zero point) * scale in float32, rounded to `dtype`."""
    k = codes.shape[0]

    def rows(parameter: np.ndarray) -> np.ndarray:
        return np.repeat(parameter.astype(np.float32), group, axis=0)[:k] if group < k else parameter.astype(np.float32)

    whole = codes.astype(np.float32)
    with np.errstate(all="ignore"):
        return ((whole if zeros is None else whole - rows(zeros)) * rows(scales)).astype(dtype.numpy)


def has_kernel(k: Any, group: int) -> bool:
    """Whether kernels read weights of K rows in groups of so many."""
    return isinstance(k, int) and k > 0 and (group >= k or group % GROUP_STEP == 0)


@op("block_matmul", attrs={"group": REQUIRED, "epilogue": ()})
class BlockMatmul:
    """x [.., M, K] times the weights that codes [K, N] (int4, uint4, int8, uint8) stand for; then matmul's epilogue.

    A weight is (code - zero point) * scale in float32, rounded to x's type (float32, bfloat16, float16); scales and
    zeros [ceil(K / group), N], one a column for `group` rows. Zero points are of the codes' type, floats, or missing,
    which is 0. The product is the one `matmul` gives of these weights, bit for bit.
    """

    def infer(call: Call) -> list[TensorType]:
        x, codes, scales, zeros = call.tensor(0), call.tensor(1), call.tensor(2), call.optional(3)
        if x.dtype not in ACTIVATIONS:
            call.dtype_error(f"x is {x.dtype}; expected {', '.join(map(str, ACTIVATIONS))}; insert a cast")
        if codes.dtype not in CODES:
            call.dtype_error(f"codes are {codes.dtype}; expected {', '.join(map(str, CODES))}")
        if not scales.dtype.is_float or scales.dtype.bits not in (16, 32):
            call.dtype_error(f"scales are {scales.dtype}; expected a float of 16 or 32 bits")
        if zeros is not None and zeros.dtype != codes.dtype and zeros.dtype not in ACTIVATIONS:
            call.dtype_error(f"zero points are {zeros.dtype}; expected the codes' {codes.dtype} or a float")
        group = call.attrs["group"]
        if not isinstance(group, int) or group < 1:
            call.shape_error(f"groups of {group} rows; expected at least 1")
        if x.shape is None or codes.shape is None or scales.shape is None:
            call.shape_error(f"x is {x}, codes {codes} and scales {scales}; expected known ranks")
        if len(x.shape) < 2 or len(codes.shape) != 2 or len(scales.shape) != 2:
            call.shape_error(f"x is {x}, codes {codes} and scales {scales}; expected [.., M, K], [K, N], [groups, N]")
        k, n = codes.shape
        call.same_size(x.shape[-1], k, "K (columns of x, rows of the codes)")
        for what, parameters in (("scales", scales), ("zero points", zeros)):
            if parameters is not None and parameters.shape is not None:
                call.same_size(parameters.shape[0], -(-k // group), f"number of groups (of {what}, of K)")
                call.same_size(parameters.shape[1], n, f"N (of {what}, of the codes)")
        shape = (*x.shape[:-1], n)
        return [TensorType(e.dtype, shape) for e in call.attrs["epilogue"]] or [TensorType(x.dtype, shape)]

    def reference(
        x: np.ndarray,
        codes: np.ndarray,
        scales: np.ndarray,
        zeros: np.ndarray | None = None,
        *extra: np.ndarray,
        group: int,
        epilogue: Sequence[Expr],
    ) -> Any:
        weights = dequantized(codes, scales, zeros, group, dtypes.from_numpy(x.dtype))
        return finish(exact_product(x, weights, None), x, weights, None, epilogue, extra)

    def decompose(b: Any, node: Node) -> Any:
        x, codes, scales, zeros = (*node.inputs[:4], None)[:4]
        assert x is not None and codes is not None and scales is not None
        given = [scales] if zeros is None else [scales, zeros]
        k, group = codes.type.shape[0], node.attrs["group"]  # type: ignore[union-attr,index]
        if all(value.name in b.constants for value in (codes, *given)) and has_kernel(k, group):
            return None
        one = not isinstance(group, int) or (isinstance(k, int) and group >= k)
        rows = given if one else [spread(b, value, codes, 0, group) for value in given]
        code = cast(arg(0, codes.type.dtype), dtypes.float32)  # type: ignore[union-attr]
        code = code if zeros is None else code - cast(operand(2, rows[1]), dtypes.float32)
        weight = cast(code * cast(operand(1, rows[0]), dtypes.float32), x.type.dtype)  # type: ignore[union-attr]
        weights = emit_map(b, weight, codes, *rows, hint="weights")
        return b.emit_many("matmul", (x, weights, *node.inputs[4:]), {"epilogue": node.attrs["epilogue"]},
                           tuple(value.name for value in node.outputs))  # fmt: skip

    def lower(node: Node, low: Lowering) -> None:
        lower_block_matmul(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for name, code, k, group in (
            ("int4", ml_dtypes.int4, 40, 16), ("uint4", ml_dtypes.uint4, 33, 32), ("int8", np.int8, 9, 9),
            ("uint8", np.uint8, 7, 3),
        ):  # fmt: skip
            codes = rng.integers(0, 8, (k, 18)).astype(code)
            groups = -(-k // group)
            scales = rng.uniform(0.01, 0.1, (groups, 18)).astype(np.float32)
            x = rng.standard_normal((2, 3, k)).astype(np.float32)
            yield Sample((x, codes, scales), {"group": group}, 16, name)
            zeros = rng.integers(0, 8, (groups, 18)).astype(code)
            yield Sample((x, codes, scales, zeros), {"group": group}, 16, f"{name}-zeros")
        yield Sample((x, codes, scales, zeros.astype(np.float32) + 0.25), {"group": group}, 16, "float-zeros")
        for kind in (dtypes.bfloat16, dtypes.float16):
            yield Sample((x.astype(kind.numpy), codes, scales, zeros), {"group": group}, 16, kind.name)
        sums = {"epilogue": (arg(0, dtypes.float32) * 0.5 + arg(1, dtypes.float32),)}
        bias = rng.standard_normal(18).astype(np.float32)
        yield Sample((x, codes, scales, None, bias), {"group": group, **sums}, 16, "epilogue")
