"""LabelEncoder on numbers: a binary search among the sorted keys, then the value beside the key found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, const, select
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map
from compiler.types import TensorType

_KINDS = {"int64s": np.int64, "floats": np.float32, "tensor": None}
_DEFAULTS = {"int64s": "default_int64", "floats": "default_float", "tensor": "default_tensor"}


def _build(b: Builder, node: Any) -> Any:
    keys = values = default = None
    for kind, dtype in _KINDS.items():
        if node.attr(f"keys_{kind}") is not None:
            keys = np.asarray(node.attrs[f"keys_{kind}"], dtype)
        if node.attr(f"values_{kind}") is not None:
            values = np.asarray(node.attrs[f"values_{kind}"], dtype)
            default = node.attr(_DEFAULTS[kind])
    x = node.required(0)
    if keys is None or values is None or keys.size == 0 or object in (keys.dtype, values.dtype):
        return NotImplemented  # strings
    keys = keys.astype(x.type.dtype.numpy)
    if default is None:
        default = -1 if values.dtype.kind == "i" else 0
    fallback = np.asarray(default, values.dtype).reshape(())
    return b.emit("label_encoder", x, keys=keys.reshape(-1), values=values.reshape(-1), default=fallback)


_ATTRS = {"default_int64": -1, "default_float": -0.0}


@op(
    "label_encoder",
    onnx=OnnxRow("LabelEncoder", _ATTRS, domain="ai.onnx.ml", build=_build),
    attrs={"keys": REQUIRED, "values": REQUIRED, "default": REQUIRED},
)
class LabelEncoder:
    """values[i] where x equals keys[i] (the last such i; NaN equals NaN), default elsewhere."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(dtypes.from_numpy(call.attrs["values"].dtype), call.tensor(0).shape)]

    def reference(x: np.ndarray, *, keys: np.ndarray, values: np.ndarray, default: np.ndarray) -> np.ndarray:
        result = np.full(x.shape, default, values.dtype)
        for key, value in zip(keys, values, strict=True):
            result[(x == key) | ((x != x) & (key != key))] = value
        return result

    def decompose(b: Builder, node: Node) -> Value:
        (x,) = node.inputs
        keys, values, default = _sorted(**node.attrs)
        dtype = x.type.dtype
        table = b.constant(keys, "keys")
        place = b.constant(np.zeros((), np.int64))
        step = len(keys) // 2
        while step:  # the last place whose key is not above x; the number of keys is a power of two
            ahead = emit_map(b, arg(0, dtypes.int64) + const(step, dtypes.int64), place)
            reached = apply("le", arg(0, dtype), arg(1, dtype))
            further = select(reached, arg(2, dtypes.int64) + const(step, dtypes.int64), arg(2, dtypes.int64))
            place = emit_map(b, further, b.emit("take", table, ahead, axis=0), x, place)
            step //= 2
        kind = dtypes.from_numpy(values.dtype)
        found = apply("eq", arg(0, dtype), arg(1, dtype))
        element = select(found, arg(2, kind), const(default.item(), kind))
        nan = [value for key, value in zip(node.attrs["keys"], node.attrs["values"], strict=True) if key != key]
        if nan:
            element = select(apply("ne", arg(1, dtype), arg(1, dtype)), const(nan[-1].item(), kind), element)
        beside = [b.emit("take", b.constant(column), place, axis=0) for column in (keys, values)]
        return emit_map(b, element, beside[0], x, beside[1], hint="label")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for count in (1, 2, 5, 64, 65):
            keys = rng.permutation(count * 2)[:count] - count
            table = {"keys": keys, "values": rng.standard_normal(count), "default": np.array(-1.0)}
            yield Sample((rng.integers(-count, count, (3, 40)),), table, name=f"{count} integers")
        floats = np.array([0.5, np.nan, -2, np.inf, 0.5], np.float32)
        table = {"keys": floats, "values": np.array([1, 2, 3, 4, 5]), "default": np.array(-7)}
        x = np.array([[0.5, -2, np.nan], [np.inf, -np.inf, 0.25]], np.float32)
        yield Sample((x,), table, name="floats")


def _sorted(keys: np.ndarray, values: np.ndarray, default: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys in order, as many as the next power of two (the last is repeated), and their values."""
    last = {key: value for key, value in zip(keys.tolist(), values.tolist(), strict=True) if key == key}
    order = sorted(last) or [0]
    size = 1 << (len(order) - 1).bit_length()
    order += [order[-1]] * (size - len(order))
    picked = [last.get(key, default.item()) for key in order]
    return np.array(order, keys.dtype), np.array(picked, values.dtype), default
