"""What rows need to know of ONNX: element type numbers, and attributes that became inputs in later opsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.errors import DtypeError
from compiler.op import ONNX_ROWS, REGISTRY, OnnxRow

# TensorProto.DataType
_NUMBERS = {
    1: dtypes.float32, 2: dtypes.uint8, 3: dtypes.int8, 4: dtypes.uint16, 5: dtypes.int16, 6: dtypes.int32,
    7: dtypes.int64, 8: dtypes.string, 9: dtypes.boolean, 10: dtypes.float16, 11: dtypes.float64,
    12: dtypes.uint32, 13: dtypes.uint64, 14: dtypes.complex64, 15: dtypes.complex128, 16: dtypes.bfloat16,
    17: dtypes.float8_e4m3fn, 18: dtypes.float8_e4m3fnuz, 19: dtypes.float8_e5m2, 20: dtypes.float8_e5m2fnuz,
    21: dtypes.uint4, 22: dtypes.int4, 23: dtypes.float4_e2m1fn, 24: dtypes.float8_e8m0fnu,
    25: dtypes.uint2, 26: dtypes.int2,
}  # fmt: skip


def onnx_dtype(number: int) -> DType:
    """The element type of a TensorProto.DataType number. Raises DtypeError for an unknown one."""
    try:
        return _NUMBERS[number]
    except KeyError:
        raise DtypeError(f"ONNX element type {number} is unknown; expected 1..{max(_NUMBERS)}") from None


def onnx_number(dtype: DType) -> int:
    """The TensorProto.DataType number of an element type. Raises DtypeError for one ONNX lacks."""
    for number, known in _NUMBERS.items():
        if known == dtype:
            return number
    raise DtypeError(
        f"ONNX has no number for element type {dtype}; expected one of {', '.join(map(str, _NUMBERS.values()))}"
    )


# What Cast called them before opset 6
_NAMES = {
    "FLOAT": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "STRING": 8, "BOOL": 9,
    "FLOAT16": 10, "DOUBLE": 11, "UINT32": 12, "UINT64": 13, "COMPLEX64": 14, "COMPLEX128": 15,
}  # fmt: skip


def name_to_number(b: Builder, node: Any) -> Any:
    """An upgrade: attribute `to` as an element type's name becomes its number."""
    to = node.attr("to")
    return node.with_attrs(to=_NAMES.get(to, to))


def attribute_to_input(name: str, position: int) -> Callable[[Builder, Any], Any]:
    """An upgrade: integer-list attribute `name` becomes the int64 input at `position`."""

    def upgrade(b: Builder, node: Any) -> Any:
        if name not in node.attrs:
            return node
        inputs = [*node.inputs, *(None,) * (position + 1 - len(node.inputs))]
        inputs[position] = b.constant(np.array(node.attrs[name], np.int64), name)
        rest = {key: value for key, value in node.attrs.items() if key != name}
        return replace(node, inputs=tuple(inputs), attrs=rest)

    return upgrade


def align_second(b: Builder, node: Any) -> Any:
    """An upgrade from opsets before 7: with `broadcast` the second input's axes start at `axis` of the first."""
    if not node.attr("broadcast", 0) or node.attr("axis") is None:
        return node.with_attrs(broadcast=None, axis=None, consumed_inputs=None)
    a, c = node.required(0).type.shape, node.required(1)
    axis = node.attrs["axis"] % len(a)
    trailing = len(a) - axis - len(c.type.shape)
    aligned = b.emit("reshape", c, b.sizes((*c.type.shape, *[1] * trailing)))
    return replace(node, inputs=(node.inputs[0], aligned)).with_attrs(broadcast=None, axis=None, consumed_inputs=None)


def without(*names: str) -> Callable[[Builder, Any], Any]:
    """An upgrade that drops attributes which no longer mean anything."""
    return lambda b, node: node.with_attrs(**dict.fromkeys(names))


def onnx_row(target: str, row: OnnxRow) -> None:
    """Register an ONNX operator that is imported as existing op `target`, or built of several (`row.build`)."""
    assert (row.domain, row.op_type) not in ONNX_ROWS, f"two rows claim ONNX {row.domain}:{row.op_type}"
    ONNX_ROWS[row.domain, row.op_type] = (REGISTRY[target], row)
