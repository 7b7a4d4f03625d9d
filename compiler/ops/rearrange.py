"""ONNX operators that move elements to or from places small operands decide: ReverseSequence, TensorScatter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.expr import apply, index, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.indexing import Operands, somewhere, take_flat
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_STRINGS = "strings never reach a kernel"
_AXES = {"batch_axis": 1, "time_axis": 0}


@op("reverse_sequence", onnx=OnnxRow("ReverseSequence", _AXES), attrs=_AXES, host_reason=_STRINGS)
class ReverseSequence:
    """The first lengths[b] (operand 1) steps of each sequence b of x in reverse, the rest as they are; batch and time
    are the first two axes, either way round."""

    def infer(call: Call) -> list[TensorType]:
        x, lengths, attrs = call.tensor(0), call.tensor(1), call.attrs
        if {attrs["batch_axis"], attrs["time_axis"]} != {0, 1}:
            call.shape_error(f"batch_axis {attrs['batch_axis']}, time_axis {attrs['time_axis']}; expected 0 and 1")
        if x.shape is not None and lengths.shape is not None:
            if len(x.shape) < 2 or len(lengths.shape) != 1:
                call.shape_error(f"x {x}, lengths {lengths}; expected two axes or more, and a vector")
            call.same_size(x.shape[attrs["batch_axis"]], lengths.shape[0], "the number of sequences (of x, of lengths)")
        return [x]

    def reference(x: np.ndarray, lengths: np.ndarray, *, batch_axis: int, time_axis: int) -> np.ndarray:
        result = x.copy()
        source, target = (np.moveaxis(a, (batch_axis, time_axis), (0, 1)) for a in (x, result))
        if np.any(lengths > x.shape[time_axis]):
            raise IndexError(f"lengths {lengths} exceed {x.shape[time_axis]} steps")
        for sequence, length in enumerate(lengths):
            target[sequence, :length] = source[sequence, :length][::-1]
        return result

    def decompose(b: Builder, node: Node) -> Value | None:
        x, lengths = node.inputs
        if x.type.dtype.kind == "string":
            return None
        shape, (batch, time) = known_shape(x), (node.attrs["batch_axis"], node.attrs["time_axis"])
        operands = Operands(b)
        length = operands.tensor(
            b.emit("reshape", lengths, b.sizes(tuple(shape[a] if a == batch else 1 for a in (0, 1))))
        )
        step = index(time)
        source = select(apply("lt", step, length), length - 1 - step, step)
        row = {batch: index(batch), time: source}
        place = row[0] * operands.size(shape[1]) + row[1]
        return take_flat(
            b,
            x,
            somewhere(place, apply("le", length, operands.size(shape[time]))),
            operands,
            shape[:2],
            shape[2:],
            "reverse_sequence",
        )

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((5, 3, 4)).astype(np.float32)
        yield Sample((x, np.array([5, 0, 3])))
        yield Sample((x.astype(np.float64), np.array([1, 2, 3, 0, 2])), {"batch_axis": 0, "time_axis": 1}, name="batch")
        yield Sample((rng.integers(0, 9, (4, 2)), np.array([4, 2])), name="matrix")


_WRITE = {"axis": -2, "mode": "linear"}


@op("tensor_scatter", onnx=OnnxRow("TensorScatter", _WRITE), attrs=_WRITE, host_reason=_STRINGS)
class TensorScatter:
    """A cache (operand 0) with an update (operand 1) of as many axes written along `axis` from position first[b]
    (operand 2, else 0) of each batch entry b; `mode` circular goes on at the front where the axis ends."""

    def infer(call: Call) -> list[TensorType]:
        cache, update = call.tensor(0), call.tensor(1)
        call.same_dtype(0, 1)
        if call.attrs["mode"] not in ("linear", "circular"):
            call.shape_error(f"mode {call.attrs['mode']!r}; expected linear or circular")
        if cache.shape is None or update.shape is None:
            return [cache]
        axis = call.axis(call.attrs["axis"], len(cache.shape))
        if len(cache.shape) != len(update.shape) or axis == 0:
            call.shape_error(f"update {update} along axis {axis} of {cache}; expected as many axes, and not the first")
        for a, (size, other) in enumerate(zip(cache.shape, update.shape, strict=True)):
            if a != axis:
                call.same_size(size, other, f"axis {a} (of the cache, of the update)")
        return [cache]

    def reference(
        cache: np.ndarray, update: np.ndarray, first: np.ndarray | None = None, *, axis: int, mode: str
    ) -> np.ndarray:
        result = cache.copy()
        target, source = (np.moveaxis(a, axis, 1) for a in (result, update))
        for entry in range(len(cache)):
            at = np.arange(source.shape[1]) + (0 if first is None else first[entry])
            target[entry, at % target.shape[1] if mode == "circular" else at] = source[entry]
        return result

    def decompose(b: Builder, node: Node) -> Value | None:
        cache, update, *rest = node.inputs
        if cache.type.dtype.kind == "string":
            return None
        whole, shape = known_shape(cache), known_shape(update)
        axis = node.attrs["axis"] % len(whole)
        between, inner = dims.product(whole[1:axis]), dims.product(whole[axis + 1 :])
        operands = Operands(b)
        place: Any = index(2)
        if rest:
            place = place + operands.tensor(b.emit("reshape", rest[0], b.sizes((whole[0], 1, 1))))
        if node.attrs["mode"] == "circular":
            place = apply("rem", place, operands.size(whole[axis]))
        outer, count = whole[0] * between, shape[axis]
        places = b.emit("map", *operands.values, outputs=(place,), shape=(whole[0], between, count), hint="place")
        at = b.emit("expand", b.emit("reshape", places, b.sizes((outer, count, 1))), b.sizes((outer, count, inner)))
        table = b.emit("reshape", cache, b.sizes((outer, whole[axis], inner)))
        rows = b.emit("reshape", update, b.sizes((outer, count, inner)))
        written = b.emit("scatter", table, at, rows, reduction="none", hint="tensor_scatter")
        return b.emit("reshape", written, b.sizes(whole))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        cache, update = (rng.standard_normal((3, 2, n, 5)).astype(np.float32) for n in (7, 4))
        first = np.array([3, 0, 2])
        yield Sample((cache, update, first))
        yield Sample((cache, update, first + 3), {"mode": "circular"}, name="circular")
        yield Sample((cache, update), name="front")
        yield Sample((cache[:, 0].astype(np.float16), update[:, 0].astype(np.float16), first), {"axis": 1}, name="rows")
        lines = cache[:, 0, :, 0].copy(), update[:, 0, :, 0].copy()
        yield Sample((*lines, first), {"axis": -1}, name="matrix")
