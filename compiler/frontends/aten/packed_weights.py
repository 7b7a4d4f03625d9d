"""Products with weights of 8 and 4 bits whose scales belong to the call."""

from __future__ import annotations

from functools import lru_cache
from typing import cast as typed

import numpy as np

from compiler import dtypes
from compiler.expr import arg
from compiler.frontends.aten.base import (
    AtenBuilder,
    aten,
    compute_type,
    convert,
    pointwise,
    reshape,
    swap_last,
    tensor_type,
    unsupported,
)
from compiler.ir import Value


@aten("aten._weight_int8pack_mm.default")
def _weight_int8pack_mm(b: AtenBuilder, x: Value, weight: Value, scales: Value) -> Value:
    """x [M, K] by int8 weight [N, K] transposed, each column times its scale [N]; bytes are exact in every float."""
    held = tensor_type(x).dtype
    acc = compute_type(held)
    product = b.emit("matmul", x, swap_last(b, convert(b, weight, held)), epilogue=(arg(0, acc),))
    return pointwise(b, (product, scales), lambda p, q: p * q)


@aten("aten._weight_int4pack_mm_for_cpu.default")
def _weight_int4pack_mm(b: AtenBuilder, x: Value, packed: Value, group: int, parameters: Value) -> Value:
    """x [M, K] by a weight [N, K] of 4 bits transposed; parameters [K / group, N, 2]: scale and what code 8 stands for.

    The bytes [N, K / 2] lie as torch's kernels for this machine want them, and are put in order here: what the model
    packs is fixed when it is compiled. Raises UnsupportedOp where the bytes are no constant.
    """
    if packed.name not in b.constants:
        raise unsupported(
            b, "4-bit weights packed by the model as it runs; pack them beforehand and keep them in a buffer"
        )
    held = tensor_type(x).dtype
    codes = _in_order(np.asarray(b.constants[packed.name]))
    rows, columns = codes.shape
    blocks = b.constant(codes.reshape(rows, columns // group, group), "codes")
    by_row = b.emit("transpose", parameters, perm=(1, 0, 2))
    scale, zero = (
        b.emit("slice", by_row, starts=(0, 0, i), sizes=(rows, columns // group, 1), steps=(1, 1, 1)) for i in (0, 1)
    )
    weight = pointwise(b, (blocks, scale, zero), lambda q, s, z: (q - 8) * s + z, compute_type(held), held)
    return b.emit("matmul", x, swap_last(b, reshape(b, weight, [rows, columns])))


def _in_order(packed: np.ndarray) -> np.ndarray:
    """Codes 0..15 [N, K], as uint8, from torch's packed bytes [N, K / 2]."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    codes = np.empty(rows * columns, dtypes.uint8.numpy)
    codes[_places(rows, columns)] = _nibbles(packed)
    return codes.reshape(rows, columns)


@lru_cache(maxsize=4)
def _places(rows: int, columns: int) -> np.ndarray:
    """Where each nibble of packed bytes comes from: torch packs the hexadecimal digits of the places themselves."""
    import torch

    here = np.arange(rows * columns, dtype=np.int64)
    found = np.zeros_like(here)
    for shift in range(0, int(here.size - 1).bit_length(), 4):
        digits = torch.from_numpy((here >> shift & 15).astype(np.int32).reshape(rows, columns))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(digits, 1)
        found |= _nibbles(typed(np.ndarray, packed.numpy())).astype(np.int64) << shift
    return found


def _nibbles(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], -1).reshape(-1)
