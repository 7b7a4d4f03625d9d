"""Core ops on the matrix units: matmul, conv, attention. Their epilogues are expressions (op core_compute's map)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, index
from compiler.ir import Node
from compiler.lowering.convolution import lower_conv
from compiler.lowering.products import accumulator, is_byte_product, lower_attention, lower_matmul
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.product_reference import exact_product, finish
from compiler.ops.product_samples import conv_samples, product_samples
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("matmul", onnx=OnnxRow("MatMul"), attrs={"epilogue": (), "acc": None, "splits": 0})
class Matmul:
    """a [.., M, K] @ b [.., K, N], batches broadcast, 1-d operands as NumPy's matmul; then the epilogue.

    int8 and uint8 may mix where `acc` is int32, which is then the type of the plain product. Epilogues of integer
    products may use stat(0), stat(1) and extent as kernels.GemmSpec has them, which `splits` is of too: a permission
    that changes no meaning.
    """

    def infer(call: Call) -> list[TensorType]:
        dtype, a, b = plain_type(call), call.tensor(0), call.tensor(1)
        if a.shape is None or b.shape is None:
            return [TensorType(dtype, None)]
        if not a.shape or not b.shape:
            call.shape_error(f"operands have ranks {len(a.shape)} and {len(b.shape)}; expected at least 1")
        rows, columns = a.shape[-2:-1], b.shape[-1:] if len(b.shape) > 1 else ()
        call.same_size(a.shape[-1], b.shape[-2] if len(b.shape) > 1 else b.shape[0], "K (columns of a, rows of b)")
        shape = call.broadcast(a.shape[:-2], b.shape[:-2]) + rows + columns
        return [TensorType(e.dtype, shape) for e in call.attrs["epilogue"]] or [TensorType(dtype, shape)]

    def reference(
        a: np.ndarray, b: np.ndarray, *extra: np.ndarray, epilogue: Sequence[Expr], acc: DType | None, splits: int
    ) -> Any:
        return finish(exact_product(a, b, acc), a, b, acc, epilogue, extra)

    def decompose(b: Any, node: Node) -> Any:
        ranks = [node.inputs[i].type.rank for i in (0, 1)]  # type: ignore[union-attr]
        if min(ranks) > 1:
            return None
        operands = list(node.inputs[:2])
        for i in (0, 1):
            if ranks[i] == 1:
                size = operands[i].type.shape[0]
                operands[i] = b.emit("reshape", operands[i], b.sizes([1, size] if i == 0 else [size, 1]))
        return b.emit("reshape", b.emit("matmul", *operands, acc=node.attrs["acc"]), b.sizes(node.output.type.shape))

    def lower(node: Node, low: Lowering) -> None:
        lower_matmul(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for a, b in (((3, 5), (5, 4)), ((2, 1, 3, 5), (4, 5, 2)), ((5,), (5, 3)), ((2, 3, 5), (5,)), ((4,), (4,))):
            x, y = rng.standard_normal(a).astype(np.float32), rng.standard_normal(b).astype(np.float32)
            yield Sample((x, y), {}, 16, f"{len(a)}d{len(b)}d")
        yield from product_samples(rng)


def plain_type(call: Call) -> DType:
    """The type of a product without an epilogue: its operands', or int32 of 8-bit integers asked for in that."""
    summed = is_byte_product(call.tensor(0).dtype, call.tensor(1).dtype, call.attrs["acc"])
    return dtypes.int32 if summed else call.same_dtype(0, 1)


CONV_ATTRS = {"strides": REQUIRED, "dilations": REQUIRED, "pads": REQUIRED, "group": 1}


@op("conv", attrs={**CONV_ATTRS, "epilogue": (), "channels_last": False, "acc": None, "fill": 0, "splits": 0})
class Conv:
    """Convolution of x [N, C, spatial..] with w [O, C/group, kernel..] plus bias [O]; then the epilogue.

    `pads` are (begin.., end..). With channels_last x and the result are [N, spatial.., C]; w is not affected. `acc`,
    `splits` and the leaves of the epilogue are matmul's, K running over one group's channels and the kernel; a bias
    then has type `acc`. `fill`: number of the epilogue operand whose one element, of x's type, stands in the padding;
    0: zeros do.
    """

    def infer(call: Call) -> list[TensorType]:
        x, w, attrs = call.tensor(0), call.tensor(1), call.attrs
        dtype, bias = plain_type(call), call.optional(2)
        if bias is not None and bias.dtype != dtype:
            call.dtype_error(f"the bias is {bias.dtype}; expected {dtype}; insert a cast")
        if attrs["fill"] and call.tensor(2 + attrs["fill"]).dtype != x.dtype:
            call.dtype_error(f"padding {x} is filled with {call.tensor(2 + attrs['fill'])}; expected the same type")
        if x.shape is None or w.shape is None:
            return [TensorType(dtype, None)]
        spatial = len(x.shape) - 2
        if spatial < 1 or len(w.shape) != len(x.shape):
            call.shape_error(f"x is {x} and w is {w}; expected [N, C, spatial..] and [O, C/group, kernel..]")
        channels = x.shape[-1] if attrs["channels_last"] else x.shape[1]
        call.same_size(channels, w.shape[1] * attrs["group"], "number of channels (of x, of w times group)")
        if isinstance(w.shape[0], int) and w.shape[0] % attrs["group"]:
            call.shape_error(f"{w.shape[0]} output channels do not divide into {attrs['group']} groups")
        sizes = x.shape[1:-1] if attrs["channels_last"] else x.shape[2:]
        out = window_sizes(sizes, w.shape[2:], attrs["strides"], attrs["dilations"], attrs["pads"])
        shape = (x.shape[0], *out, w.shape[0]) if attrs["channels_last"] else (x.shape[0], w.shape[0], *out)
        return [TensorType(e.dtype, shape) for e in attrs["epilogue"]] or [TensorType(dtype, shape)]

    def reference(
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None = None,
        *extra: np.ndarray,
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        group: int,
        epilogue: Sequence[Expr],
        channels_last: bool,
        acc: DType | None,
        fill: int,
        splits: int,
    ) -> Any:
        if channels_last:
            x = np.moveaxis(x, -1, 1)
        padding = extra[fill - 1].reshape(-1)[0] if fill else 0
        windows = sliding_windows(x, w.shape[2:], strides, dilations, pads, padding)
        spatial = x.ndim - 2
        n, out, features = x.shape[0], windows.shape[2 : 2 + spatial], w.shape[0]
        # [N, group, C/group, out.., kernel..] against [group, O/group, C/group, kernel..]
        grouped = windows.reshape(n, group, x.shape[1] // group, *windows.shape[2:])
        depth = math.prod(w.shape[1:])
        columns = np.moveaxis(grouped, 2, 2 + spatial).reshape(n, group, math.prod(out), depth)
        weights = w.reshape(group, features // group, depth).swapaxes(1, 2)

        def arranged(products: np.ndarray) -> np.ndarray:
            """[N, group, positions, O/group] as the result has it."""
            whole = np.broadcast_to(products, (n, group, math.prod(out), features // group))
            result = whole.swapaxes(2, 3).reshape(n, features, *out)
            return np.moveaxis(result, 1, -1) if channels_last else result

        result = arranged(exact_product(columns, weights, acc))
        if bias is not None:
            shape = (-1,) if channels_last else (-1, *[1] * spatial)
            result = result + bias.astype(result.dtype).reshape(shape)
        return finish(result, columns, weights, acc, epilogue, extra, arranged)

    def lower(node: Node, low: Lowering) -> None:
        lower_conv(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        plain = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
        yield Sample((draw(2, 3, 6, 5), draw(4, 3, 3, 3), draw(4)), plain, 32)
        odd = {"strides": (2, 1), "dilations": (1, 2), "pads": (0, 2, 1, 1), "group": 2}
        yield Sample((draw(1, 4, 7, 8), draw(6, 2, 3, 2)), odd, 32, "grouped")
        yield Sample((draw(1, 4, 5, 5), draw(4, 1, 3, 3)), {**plain, "group": 4}, 32, "depthwise")
        yield Sample((draw(2, 6, 5, 3), draw(4, 3, 3, 3)), {**plain, "channels_last": True}, 32, "channels_last")
        yield from conv_samples(rng)


def window_sizes(
    sizes: Sequence[Size],
    kernel: Sequence[Size],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[Size],
) -> list[Size]:
    """Output extents of a sliding window, rounded down."""
    count = len(sizes)
    covered = [(kernel[i] - 1) * dilations[i] + 1 for i in range(count)]
    return [(sizes[i] + pads[i] + pads[count + i] - covered[i]) // strides[i] + 1 for i in range(count)]


def sliding_windows(
    x: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    fill: Any = 0,
) -> np.ndarray:
    """Windows [N, C, out.., kernel..] of x [N, C, spatial..] padded with `fill`; a view of the padded copy."""
    count = x.ndim - 2
    widths = [(0, 0), (0, 0), *((pads[i], pads[count + i]) for i in range(count))]
    padded = np.pad(x, widths, constant_values=fill)
    covered = [(kernel[i] - 1) * dilations[i] + 1 for i in range(count)]
    axes = tuple(range(2, 2 + count))
    windows = np.lib.stride_tricks.sliding_window_view(padded, covered, axis=axes)
    steps = (
        np.s_[:],
        np.s_[:],
        *(np.s_[:: strides[i]] for i in range(count)),
        *(np.s_[:: dilations[i]] for i in range(count)),
    )
    return windows[steps]


@op("attention", attrs={"score": REQUIRED, "zero_rows": "empty"})
class Attention:
    """softmax over keys of score(q . k), times v: q [.., L, E], k [.., S, E], v [.., S, Ev] (kernels.AttentionSpec).

    Batch axes broadcast. In `score`, index(rank - 2) is the query's position and index(rank - 1) the key's. v and the
    result may be wider or narrower than q and k where all sums are of one type (float16 with float32).
    """

    def infer(call: Call) -> list[TensorType]:
        dtype, products = call.tensor(2).dtype, call.same_dtype(0, 1)
        if accumulator(products) != accumulator(dtype):
            call.dtype_error(f"q and k are {products}, v is {dtype}: sums in two types; insert a cast")
        q, k, v = (call.tensor(i).shape for i in range(3))
        if q is None or k is None or v is None:
            return [TensorType(dtype, None)]
        if not len(q) == len(k) == len(v) or len(q) < 2:
            call.shape_error(f"q, k, v have ranks {len(q)}, {len(k)}, {len(v)}; expected the same, at least 2")
        call.same_size(q[-1], k[-1], "head size (of q, of k)")
        call.same_size(k[-2], v[-2], "number of keys (of k, of v)")
        return [TensorType(dtype, (*call.broadcast(q[:-2], k[:-2], v[:-2]), q[-2], v[-1]))]

    def reference(
        q: np.ndarray, k: np.ndarray, v: np.ndarray, *extra: np.ndarray, score: Expr, zero_rows: str
    ) -> np.ndarray:
        from compiler.evaluate import evaluate
        from compiler.ops.core_compute import position

        dots = np.matmul(q.astype(np.float64), k.astype(np.float64).swapaxes(-1, -2))
        dots = dots.astype(accumulator(dtypes.from_numpy(q.dtype)).numpy)

        def leaf(node: Expr) -> np.ndarray:
            if node.op == "index":
                return position(node.value, dots.shape)
            return extra[node.value - 1] if node.value else dots

        with np.errstate(all="ignore"):
            scores = np.broadcast_to(evaluate((score,), leaf, "truth")[0], dots.shape).astype(np.float64)
            top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
            weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
            total = weights.sum(axis=-1, keepdims=True)
            weights = np.where(without_weight(total, zero_rows), 0, weights / total)
        return np.matmul(weights, v.astype(np.float64)).astype(v.dtype)

    def lower(node: Node, low: Lowering) -> None:
        lower_attention(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        dot, bias = arg(0, dtypes.float32), arg(1, dtypes.float32)
        heads = (draw(2, 3, 4, 8), draw(2, 3, 6, 8), draw(2, 3, 6, 5))
        yield Sample((*heads, draw(2, 1, 1, 6)), {"score": dot * 0.35 + bias}, 32)
        causal = apply("select", apply("le", index(3), index(2)), dot * 0.5, dot * 0.0 + float("-inf"))
        yield Sample(heads, {"score": causal}, 32, "causal")
        narrow = (*(x.astype(np.float16) for x in heads[:2]), heads[2])
        yield Sample(narrow, {"score": dot * 0.35}, 32, "mixed types")
        for zero_rows in ("none", "empty", "undefined"):
            hidden = apply("select", apply("lt", index(3), index(2) - 2), dot, dot * 0.0 + float("-inf"))
            yield Sample(heads, {"score": hidden, "zero_rows": zero_rows}, 32, f"zero-{zero_rows}")


def without_weight(total: np.ndarray, zero_rows: str) -> np.ndarray:
    """Which rows of attention give zeros, from the sums of their weights (see AttentionSpec.zero_rows)."""
    if zero_rows == "none":
        return np.zeros(total.shape, bool)
    return total == 0 if zero_rows == "empty" else ~(total > 0)
