"""ONNX Runtime's operators on weights stored in 4 or 8 bits (domain com.microsoft): MatMulNBits and
GatherBlockQuantized. Meanings are those of onnxruntime's docs/ContribOperators.md; `accuracy_level`, which lets it
round activations to fewer bits, is not made use of: products are of the activations as they are.

Both pack codes into bytes along the last axis, the lowest bits first. Without zero points an unsigned code is less by
half of its range; as a signed one it needs none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.errors import ModelError, UnsupportedOp
from compiler.expr import apply, arg, cast, const, index
from compiler.ir import Value
from compiler.lowering.products import accumulator
from compiler.ops.contrib_attention import refuse
from compiler.ops.contrib_norm import contrib
from compiler.ops.core_blocks import BlockMatmul
from compiler.ops.elementwise import emit_map, operand
from compiler.ops.quant import DequantizeLinear
from compiler.ops.shape import known_shape

_SIGNED = {4: dtypes.int4, 8: dtypes.int8}
_UNSIGNED = {4: dtypes.uint4, 8: dtypes.uint8}


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [.., X] as codes [.., X * 8 / bits], one in a byte."""
    if bits == 8:
        return packed
    parts = [packed >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


def _bits(b: Builder, node: Any) -> int:
    bits = node.attr("bits")
    if bits not in _SIGNED:
        raise UnsupportedOp(f"{b.place}: {node.op_type} of {bits} bits; expected 4 or 8")
    return bits


def _unpacked(b: Builder, packed: Value, bits: int) -> Value:
    """The same of a value that is no constant."""
    if bits == 8:
        return packed
    *outer, last = known_shape(packed)
    count, number = 8 // bits, dtypes.int32
    apart = b.emit("reshape", packed, b.sizes((*outer, last, 1)))
    shift = cast(index(len(outer) + 1), number) * bits
    code = apply("and", apply("shr", cast(arg(0, dtypes.uint8), number), shift), const((1 << bits) - 1, number))
    codes = b.emit("map", apart, outputs=(cast(code, dtypes.uint8),), shape=(*outer, last, count), hint="codes")
    return b.emit("reshape", codes, b.sizes((*outer, last * count)))


def _columns(b: Builder, packed: Value, bits: int, rows: int, columns: int, dtype: DType) -> Value:
    """Codes [columns, rows at least], of any shape in bytes, as [rows, columns]; of constants in `dtype`, signed ones
    moved."""
    array = b.constants.get(packed.name)
    moved = 1 << bits - 1 if dtype.kind == "int" else 0
    if array is not None:
        codes = unpacked(np.reshape(array, (columns, -1)), bits)[:, :rows]
        if moved:
            codes = codes.astype(np.int16) - moved
        return b.constant(np.ascontiguousarray(codes.T).astype(dtype.numpy), packed.name)
    flat = _unpacked(b, b.emit("reshape", packed, b.sizes((columns, -1))), bits)
    kept = b.emit("slice", flat, starts=(0, 0), sizes=(columns, rows), steps=(1, 1))
    if moved:
        code = cast(cast(arg(0, dtypes.uint8), dtypes.int32) - moved, dtypes.int8)
        kept = b.emit("map", kept, outputs=(code,), hint="codes")
    return b.emit("transpose", kept, perm=(1, 0))


def _turned(b: Builder, parameters: Value, rows: int, columns: int) -> Value:
    """Scales [columns, rows], of any shape in the model, as [rows, columns]."""
    array = b.constants.get(parameters.name)
    if array is not None:
        return b.constant(np.ascontiguousarray(np.reshape(array, (columns, rows)).T), parameters.name)
    return b.emit("transpose", b.emit("reshape", parameters, b.sizes((columns, rows))), perm=(1, 0))


def _matmul(b: Builder, node: Any) -> Value:
    x, packed, scales = (node.required(i) for i in range(3))
    zeros, order, bias = (node.input(i) for i in range(3, 6))
    k, n, block, bits = node.attr("K"), node.attr("N"), node.attr("block_size"), _bits(b, node)
    refuse(b, node, attrs=("weight_prepacked",))  # a layout of another machine's
    if packed.type.dtype != dtypes.uint8:
        raise UnsupportedOp(f"{b.place}: MatMulNBits with B in {packed.type.dtype}; expected uint8")
    groups = -(-k // block)
    if order is not None:
        x, packed = _sorted(b, x, packed, b.constants.get(order.name), block, bits, (k, n))
    constant = packed.name in b.constants and (zeros is None or zeros.name in b.constants)
    kind = _SIGNED[bits] if zeros is None else _UNSIGNED[bits] if constant else dtypes.uint8
    codes = _columns(b, packed, bits, k, n, kind)
    rows = _turned(b, scales, groups, n)
    shift = None
    if zeros is not None and zeros.type.dtype == dtypes.uint8:
        shift = _columns(b, zeros, bits, groups, n, kind)
    elif zeros is not None:
        shift = _turned(b, zeros, groups, n)
    if bias is None:
        return b.emit("block_matmul", x, codes, rows, shift, group=block)
    dtype, acc = x.type.dtype, accumulator(x.type.dtype)  # 16-bit floats are rounded once, after the addition
    epilogue = () if acc == dtype else (arg(0, acc),)
    product = b.emit("block_matmul", x, codes, rows, shift, group=block, epilogue=epilogue)
    return emit_map(b, cast(operand(0, product) + operand(1, bias), dtype), product, bias, hint="biased")


def _sorted(
    b: Builder, x: Value, packed: Value, groups: np.ndarray | None, block: int, bits: int, size: tuple[int, int]
) -> tuple[Value, Value]:
    """x and B with their columns sorted by the groups that g_idx gives them. Raises UnsupportedOp where g_idx or B is
    no constant, or groups are not as large as they should be."""
    k, n = size
    array = b.constants.get(packed.name)
    if groups is None or array is None:
        raise UnsupportedOp(f"{b.place}: MatMulNBits with g_idx or B that are no constants; make them initializers")
    groups = groups.reshape(-1)[:k]
    order = np.argsort(groups, kind="stable")
    if not np.array_equal(groups[order], np.arange(k) // block):
        raise UnsupportedOp(f"{b.place}: MatMulNBits with g_idx of uneven groups; expected {block} columns in each")
    if np.array_equal(order, np.arange(k)):
        return x, packed
    codes = unpacked(array.reshape(n, -1), bits)
    codes[:, :k] = codes[:, order]
    if bits == 4:
        codes = codes[:, 0::2] | codes[:, 1::2] << 4
    rank = len(known_shape(x))
    return b.emit("take", x, b.constant(order.astype(np.int64)), axis=rank - 1), b.constant(codes, packed.name)


def _gather(b: Builder, node: Any) -> Value:
    """Rows taken from codes and from their scales, then dequantized."""
    data, places, scales, zeros = (node.input(i) for i in range(4))
    block, rank = node.attr("block_size"), len(known_shape(data))
    taken, blocked = (node.attr(name) % rank for name in ("gather_axis", "quantize_axis"))
    if taken == blocked:
        raise ModelError(f"{b.place}: GatherBlockQuantized gathers along its blocks' axis {taken}; expected another")
    if data.type.dtype == dtypes.uint8:
        bits = _bits(b, node)
        if blocked != rank - 1:
            raise UnsupportedOp(f"{b.place}: GatherBlockQuantized of bytes in blocks along axis {blocked}; expected -1")
        groups, width = known_shape(scales)[-1], known_shape(data)[-1] * (8 // bits)
        data = _last_axis(b, data, bits, width)
        half = b.constant(np.array(1 << bits - 1, np.uint8))
        zeros = half if zeros is None else _last_axis(b, zeros, bits, groups)
    rows = [b.emit("take", v, places, axis=taken) if known_shape(v) else v for v in (data, scales, zeros) if v]
    axis = blocked + (len(known_shape(places)) - 1 if blocked > taken else 0)
    if zeros is not None and not known_shape(zeros):
        rows[2] = b.emit("expand", zeros, b.sizes(known_shape(rows[1])))
    return b.emit("dequantize_linear", *rows, axis=axis, block_size=block)


def _last_axis(b: Builder, packed: Value, bits: int, width: Any) -> Value:
    """Codes unpacked along the last axis, of which `width` count."""
    array = b.constants.get(packed.name)
    if array is not None and isinstance(width, int):
        return b.constant(unpacked(array, bits)[..., :width], packed.name)
    codes = _unpacked(b, packed, bits)
    *outer, _ = known_shape(codes)
    starts, steps = (0,) * (len(outer) + 1), (1,) * (len(outer) + 1)
    return b.emit("slice", codes, starts=starts, sizes=(*outer, width), steps=steps)


_MATMUL = {"K": 0, "N": 0, "accuracy_level": 0, "bits": 4, "block_size": 32, "weight_prepacked": 0}
contrib(BlockMatmul, "MatMulNBits", _MATMUL, _matmul)
_GATHER = {"bits": 4, "block_size": 128, "gather_axis": 0, "quantize_axis": 1}
contrib(DequantizeLinear, "GatherBlockQuantized", _GATHER, _gather)
