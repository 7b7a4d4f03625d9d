"""ONNX Runtime's own operators of transformers (domain com.microsoft) but for attention, built of ours: skipped norms,
embeddings, GELU variants and products. Meanings are those of onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, cast, const, extent, stat
from compiler.ir import Value
from compiler.kernels import Stage
from compiler.op import REGISTRY, OnnxRow
from compiler.ops.activation import gelu
from compiler.ops.core_products import Matmul
from compiler.ops.elementwise import emit_map, f32, operand, widened
from compiler.ops.norm import EPSILON, LayerNorm, RmsNorm
from compiler.ops.onnx_types import onnx_row
from compiler.ops.shape import known_shape

MICROSOFT = "com.microsoft"
_SKIP_EPSILON = f32(1e-12)


def contrib(
    target: Any, name: str, attrs: dict[str, Any], build: Callable[[Builder, Any], Any], domain: str = MICROSOFT
) -> None:
    """Register an operator of ONNX Runtime, shown in the ledger as `target`, an Op."""
    onnx_row(target.name, OnnxRow(name, attrs, domain=domain, build=build))


def total(b: Builder, values: list[Value]) -> Value:
    """The elementwise sum, added in order and rounded once."""
    result = operand(0, values[0])
    for number, value in enumerate(values[1:], start=1):
        result = result + operand(number, value)
    return emit_map(b, cast(result, values[0].type.dtype), *values, hint="sum")


def _wanted(node: Any, position: int) -> bool:
    return len(node.outputs) > position and bool(node.outputs[position])


def _skip_norm(has_beta: bool) -> Callable[[Builder, Any], Any]:
    """The norm of input + skip + bias, and what is asked for of mean, 1 / deviation and that sum."""

    def build(b: Builder, node: Any) -> Any:
        scale = node.required(2)
        beta = node.input(3) if has_beta else None
        bias = node.input(4 if has_beta else 3)
        summed = total(b, [node.required(0), node.required(1), *([] if bias is None else [bias])])
        attrs = {"axis": -1, "epsilon": node.attr("epsilon"), "stash_type": 1}
        if has_beta:
            names = [node.outputs[i] if _wanted(node, i) else "" for i in range(3)]
            results = list(b.emit_many("layer_norm", [summed, scale, beta], attrs, [names[0] or "norm", *names[1:]]))
        else:
            inverse = _inverse_rms(b, summed, attrs["epsilon"]) if _wanted(node, 2) else None
            results = [b.emit("rms_norm", summed, scale, **attrs), None, inverse]
        return [*results, summed][: len(node.outputs)]

    return build


def _inverse_rms(b: Builder, x: Value, epsilon: float) -> Value:
    """1 / sqrt(mean(x * x) + epsilon) over the last axis, which stays as one element."""
    value = operand(0, x)
    square = stat(0, value.dtype) / extent(value.dtype)
    row = 1.0 / apply("sqrt", square + epsilon)
    axes = (len(known_shape(x)) - 1,)
    return b.emit("reduce", x, axes=axes, keepdims=True, stages=(Stage("sum", value * value),), rows=(row,))


def _simplified(b: Builder, node: Any) -> Any:
    x, attrs = node.required(0), {key: node.attr(key) for key in ("axis", "epsilon", "stash_type")}
    result = b.emit("rms_norm", x, node.required(1), **attrs)
    if not _wanted(node, 1):
        return result
    if attrs["axis"] not in (-1, len(known_shape(x)) - 1):
        return NotImplemented
    return result, _inverse_rms(b, x, attrs["epsilon"])


def _embed(b: Builder, node: Any) -> Any:
    """Rows of the word, position and segment tables, added and normalized; the number of unmasked tokens; the sum."""
    ids, segments, words, positions, kinds, scale, beta, mask, places = (node.input(i) for i in range(9))
    batch, length = known_shape(ids)
    rows = [b.emit("take", words, ids, axis=0)]
    if places is None:
        width = known_shape(positions)[1]
        rows.append(b.emit("slice", positions, starts=(0, 0), sizes=(length, width), steps=(1, 1)))
    else:
        rows.append(b.emit("take", positions, places, axis=0))
    if segments is not None:
        rows.append(b.emit("take", kinds, segments, axis=0))
    summed = total(b, rows)
    norm = b.emit("layer_norm", summed, scale, beta, axis=-1, epsilon=node.attr("epsilon"), stash_type=1)
    counts = None
    if _wanted(node, 1):
        if mask is None:
            counts = b.emit("expand", b.constant(0, dtype=dtypes.int32), b.sizes((batch,)))
        else:
            one = cast(apply("eq", arg(0, dtypes.int32), const(1, dtypes.int32)), dtypes.int32)
            row = (stat(0, dtypes.int32),)
            counts = b.emit("reduce", mask, axes=(1,), keepdims=False, stages=(Stage("sum", one),), rows=row)
    return [norm, counts, summed][: len(node.outputs)]


def _gelu_of(approximate: str) -> Callable[[Builder, Any], Any]:
    """GELU of x, plus a bias where there is one."""

    def build(b: Builder, node: Any) -> Value:
        x, bias = node.required(0), node.input(1)
        value = operand(0, x) if bias is None else operand(0, x) + operand(1, bias)
        result = cast(gelu(value, approximate=approximate), x.type.dtype)
        return emit_map(b, result, *(v for v in (x, bias) if v is not None), hint="gelu")

    return build


def _quick_gelu(b: Builder, node: Any) -> Value:
    x = node.required(0)
    value = operand(0, x)
    return emit_map(b, cast(value * apply("sigmoid", value * node.attr("alpha")), x.type.dtype), x, hint="gelu")


def _fused_matmul(b: Builder, node: Any) -> Value:
    """alpha * a @ b, with the matrices transposed or their rows taken from the first axis where asked."""
    operands = []
    for i, side in enumerate("AB"):
        x = node.required(i)
        rank = len(known_shape(x))
        order = list(range(rank))
        if node.attr(f"transBatch{side}") and rank > 2:
            order = [*range(1, rank - 1), 0, rank - 1]
        if node.attr(f"trans{side}") and rank > 1:
            order = [*order[:-2], order[-1], order[-2]]
        operands.append(b.emit("transpose", x, perm=tuple(order)))
    product = b.emit("matmul", *operands)
    if node.attr("alpha") == 1:
        return product
    value = widened(arg(0, product.type.dtype))
    return emit_map(b, cast(value * node.attr("alpha"), product.type.dtype), product, hint="product")


_RMS = {"axis": -1, "epsilon": EPSILON, "stash_type": 1}
_MATMUL = {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0}

contrib(LayerNorm, "SkipLayerNormalization", {"epsilon": _SKIP_EPSILON}, _skip_norm(True))
contrib(RmsNorm, "SkipSimplifiedLayerNormalization", {"epsilon": _SKIP_EPSILON}, _skip_norm(False))
contrib(LayerNorm, "EmbedLayerNormalization", {"epsilon": _SKIP_EPSILON, "mask_index_type": 0}, _embed)
contrib(REGISTRY["gelu"], "Gelu", {}, _gelu_of("none"))
contrib(REGISTRY["gelu"], "BiasGelu", {}, _gelu_of("none"))
contrib(REGISTRY["gelu"], "FastGelu", {}, _gelu_of("tanh"))
contrib(REGISTRY["gelu"], "QuickGelu", {"alpha": f32(1.702)}, _quick_gelu)
contrib(Matmul, "FusedMatMul", _MATMUL, _fused_matmul)
# ONNX Runtime keeps this one in the default domain.
contrib(RmsNorm, "SimplifiedLayerNormalization", _RMS, _simplified, domain="")
