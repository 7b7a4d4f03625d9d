"""MelWeightMatrix: triangles of equal width on the mel scale, over the bins of a spectrum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, index, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.onnx_types import onnx_dtype
from compiler.ops.shape import known_shape, listed
from compiler.types import TensorType

_F64 = dtypes.float64


def _build(b: Builder, node: Any) -> Value:
    return b.emit("mel_weight_matrix", *node.inputs, dtype=onnx_dtype(node.attr("output_datatype", 1)))


@op(
    "mel_weight_matrix",
    onnx=OnnxRow("MelWeightMatrix", build=_build),
    attrs={"dtype": dtypes.float32},
    value_operands=(0, 1),
    host_reason="the shape of the matrix is computed in the graph",
)
class MelWeightMatrix:
    """[length // 2 + 1, bands]: operands bands, length of the transform, sample rate, lowest and highest frequency in
    hertz. Band i rises from edge i to edge i + 1 and falls to edge i + 2; edges are evenly spaced on
    mel(f) = 2595 log10(1 + f / 700), then rounded down to bins."""

    def infer(call: Call) -> list[TensorType]:
        bands, length = (call.value(i) for i in (0, 1))
        rows: Size = call.fresh() if length is None else listed(length)[0] // 2 + 1
        columns: Size = call.fresh() if bands is None else listed(bands)[0]
        return [TensorType(call.attrs["dtype"], (rows, columns))]

    def reference(
        bands: np.ndarray, length: np.ndarray, rate: np.ndarray, low: np.ndarray, high: np.ndarray, *, dtype: DType
    ) -> np.ndarray:
        count, n = int(bands.reshape(())), int(length.reshape(()))
        ends = np.array([low.reshape(()), high.reshape(())], np.float64)
        first, last = 2595 * np.log1p(ends / 700) / math.log(10)
        mels = first + np.arange(count + 2) * ((last - first) / (count + 2))
        edges = np.floor((n + 1) * (700 * np.expm1(mels / 2595 * math.log(10))) / int(rate.reshape(())))
        left, centre, right = edges[:-2], edges[1:-1], edges[2:]
        bins = np.arange(n // 2 + 1)[:, None]
        with np.errstate(all="ignore"):
            rising = np.where((bins >= left) & (bins <= centre), (bins - left) / (centre - left), 0)
            rising = np.where(centre == left, bins == centre, rising)
            falling = (right - bins) / (right - centre)
        return np.where((bins >= centre) & (bins < right), falling, rising).astype(dtype.numpy)

    def decompose(b: Builder, node: Node) -> Value | None:
        shape = known_shape(node.output)
        if any(b.contents(v) is None for v in node.inputs[:2]):
            return None
        scalars = [b.emit("reshape", v, b.sizes(())) for v in node.inputs]
        count, n, rate, low, high = (cast(arg(i, v.type.dtype), _F64) for i, v in enumerate(scalars))
        first, last = (apply("log1p", e / 700) * (2595 / math.log(10)) for e in (low, high))
        step = (last - first) / (count + 2)
        left, centre, right = (_edge(first + cast(index(1), _F64) * step, i, step, n, rate) for i in range(3))
        place = cast(index(0), _F64)
        zero, one = const(0, _F64), const(1, _F64)
        inside = apply("and", apply("ge", place, left), apply("le", place, centre))
        rising = select(inside, (place - left) / (centre - left), zero)
        peak = select(apply("eq", place, centre), one, zero)
        rising = select(apply("eq", centre, left), peak, rising)
        below = apply("and", apply("ge", place, centre), apply("lt", place, right))
        weight = select(below, (right - place) / (right - centre), rising)
        outputs = (cast(weight, node.attrs["dtype"]),)
        return b.emit("map", *scalars, hint="mel", outputs=outputs, shape=shape)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def scalars(bands: int, n: int, rate: int, low: float, high: float) -> tuple[np.ndarray, ...]:
            return (*(np.array(v) for v in (bands, n, rate)), *(np.array(v, np.float32) for v in (low, high)))

        yield Sample(scalars(8, 16, 8192, 0, 4096), tolerance=4, name="narrow")
        yield Sample(scalars(20, 400, 16000, 20, 8000), {"dtype": dtypes.float64}, 4, "float64")
        yield Sample(scalars(3, 7, 50, 10, 20), {"dtype": dtypes.int32}, name="int32")


def _edge(mel: Expr, number: int, step: Expr, n: Expr, rate: Expr) -> Expr:
    """The bin of a band's edge `number`, given its left edge in mel."""
    hertz = apply("expm1", (mel + step * number) * (math.log(10) / 2595)) * 700
    return apply("floor", (n + 1) * hertz / rate)
