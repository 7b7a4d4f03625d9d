"""Operators of ONNX's ml domain that change features: Binarizer, Scaler, Normalizer, Imputer and others, on numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.errors import ShapeError
from compiler.expr import apply, arg, cast, const, select
from compiler.ir import Value
from compiler.op import OnnxRow
from compiler.ops.elementwise import emit_map
from compiler.ops.onnx_types import onnx_row
from compiler.ops.shape import known_shape

ML = "ai.onnx.ml"
_LEAST_NORM = 1e-30  # shorter rows are divided by this instead


def compute_type(x: Value) -> DType:
    """The type features are computed in: float32, and float64 for those of it."""
    return dtypes.float64 if x.type.dtype == dtypes.float64 else dtypes.float32


def in_float(b: Builder, x: Value, dtype: DType | None = None) -> Value:
    """Features as floats: of `dtype`, or of the type to compute in."""
    dtype = dtype or compute_type(x)
    held = x.type.dtype
    return x if held == dtype else emit_map(b, cast(arg(0, held), dtype), x)


def _binarizer(b: Builder, node: Any) -> Value:
    """1 where x is above the threshold, else 0."""
    x = node.required(0)
    dtype = x.type.dtype
    wide = dtypes.float64 if dtype.is_integer else dtype
    above = apply("gt", cast(arg(0, dtype), wide), const(node.attrs["threshold"], wide))
    return emit_map(b, cast(above, dtype), x, hint="binarizer")


def _scaler(b: Builder, node: Any) -> Value:
    """(x - offset) * scale, each one number or one a feature (the last axis)."""
    x = node.required(0)
    dtype = compute_type(x)
    offset, scale = (_per_feature(b, node, x, name, dtype) for name in ("offset", "scale"))
    element = (cast(arg(0, x.type.dtype), dtype) - arg(1, dtype)) * arg(2, dtype)
    return emit_map(b, cast(element, dtypes.float32), x, offset, scale, hint="scaler")


def _per_feature(b: Builder, node: Any, x: Value, name: str, dtype: DType) -> Value:
    numbers = np.array(node.attr(name) or ({"offset": 0, "scale": 1}[name],), dtype.numpy)
    features = known_shape(x)[-1] if known_shape(x) else 1
    if numbers.size != 1 and isinstance(features, int) and numbers.size != features:
        raise ShapeError(f"{b.place}: {numbers.size} numbers in {name!r}; expected one, or one for each of {features}")
    return b.constant(numbers, name)


def _normalizer(b: Builder, node: Any) -> Value:
    """x over the maximum, sum or length of its row's magnitudes."""
    x = in_float(b, node.required(0))
    dtype = x.type.dtype
    fn = {"MAX": "reduce_max", "L1": "reduce_sum", "L2": "reduce_l2"}[node.attrs["norm"]]
    size = emit_map(b, apply("abs", arg(0, dtype)), x)
    norm = b.emit(fn, size, b.constant(np.array([-1])), keepdims=1)
    element = arg(0, dtype) / apply("max", arg(1, dtype), const(_LEAST_NORM, dtype))
    return emit_map(b, cast(element, dtypes.float32), x, norm, hint="normalizer")


def _imputer(b: Builder, node: Any) -> Any:
    """The given value of the feature where x is the replaced one (NaN: where it is NaN)."""
    x = node.required(0)
    dtype = x.type.dtype
    kind = "int64s" if dtype.is_integer else "floats"
    values = node.attr(f"imputed_value_{kind}")
    if not values:
        return NotImplemented
    replaced = node.attrs["replaced_value_int64" if dtype.is_integer else "replaced_value_float"]
    element = arg(0, dtype)
    found = apply("eq", element, const(replaced, dtype))
    if dtype.is_float and math.isnan(replaced):
        found = apply("ne", element, element)
    table = b.constant(np.array(values, dtype.numpy), "imputed")
    return emit_map(b, select(found, arg(1, dtype), element), x, table, hint="imputer")


def _feature_vectorizer(b: Builder, node: Any) -> Value:
    """Matrices cut, or padded with zeros, to given widths, side by side."""
    parts = []
    for x, width in zip(node.inputs, node.attrs["inputdimensions"], strict=True):
        x = in_float(b, x, dtypes.float32)
        x = b.emit("reshape", x, b.sizes((*known_shape(x), 1))) if len(known_shape(x)) == 1 else x
        missing = width - known_shape(x)[1]
        if missing != 0:
            x = b.emit("pad", x, None, before=(0, 0), after=(0, missing), mode="constant")
        parts.append(x)
    return b.emit("concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _one_hot_encoder(b: Builder, node: Any) -> Any:
    """A new last axis: 1 for the category that equals x, else 0."""
    x, categories = node.required(0), node.attr("cats_int64s")
    if not categories or not node.attrs["zeros"]:
        return NotImplemented  # strings, or an error where no category fits
    dtype = dtypes.int64 if x.type.dtype.is_integer else dtypes.float64
    column = b.emit("reshape", x, b.sizes((*known_shape(x), 1)))
    table = b.constant(np.array(categories, dtype.numpy), "categories")
    equal = apply("eq", cast(arg(0, x.type.dtype), dtype), arg(1, dtype))
    return emit_map(b, cast(equal, dtypes.float32), column, table, hint="one_hot")


def _array_feature_extractor(b: Builder, node: Any) -> Value:
    """The features at given places of the last axis."""
    x, places = node.required(0), node.required(1)
    rank = len(known_shape(x))
    flat = b.emit("reshape", places, b.sizes((-1,)))
    taken = b.emit("take", x, flat, axis=rank - 1)
    return taken if rank > 1 else b.emit("reshape", taken, b.sizes((1, -1)))


for _target, _row in (
    ("map", OnnxRow("Binarizer", {"threshold": 0.0}, ML, _binarizer)),
    ("map", OnnxRow("Scaler", {}, ML, _scaler)),
    ("map", OnnxRow("Normalizer", {"norm": "MAX"}, ML, _normalizer)),
    ("map", OnnxRow("Imputer", {"replaced_value_float": 0.0, "replaced_value_int64": 0}, ML, _imputer)),
    ("concat", OnnxRow("FeatureVectorizer", {}, ML, _feature_vectorizer)),
    ("map", OnnxRow("OneHotEncoder", {"zeros": 1}, ML, _one_hot_encoder)),
    ("take", OnnxRow("ArrayFeatureExtractor", {}, ML, _array_feature_extractor)),
):
    onnx_row(_target, _row)
