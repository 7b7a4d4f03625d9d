"""CumSum and CumProd: what looks at a whole axis element by element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, cast, const, index, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import NUMBER, check_kind, emit_map, in_float64, operand
from compiler.ops.shape import known_shape
from compiler.types import TensorType

QUADRATIC_LIMIT = 1024  # a longer row of known length is doubled instead: log2(n) passes over it


def _declare_running(name: str, onnx: str, fn: str) -> None:
    attrs = {"exclusive": 0, "reverse": 0}
    ufunc, combine, neutral = (np.add, "add", 0) if fn == "sum" else (np.multiply, "mul", 1)

    @op(
        name,
        onnx=OnnxRow(onnx, attrs),
        attrs=attrs,
        value_operands=(1,),
        host_reason="the axis is computed in the graph",
    )
    class Running:
        """Running sum or product along the axis in operand 1, with or without the element itself, from either end."""

        def infer(call: Call) -> list[TensorType]:
            x, axis = call.tensor(0), call.value(1)
            check_kind(call, x.dtype, NUMBER)
            if x.shape is not None and axis is not None:
                call.axis(int(axis.reshape(())), len(x.shape))
            return [x]

        def reference(x: np.ndarray, axis: np.ndarray, *, exclusive: int, reverse: int) -> np.ndarray:
            along = int(axis.reshape(())) % x.ndim

            def run(a: np.ndarray) -> np.ndarray:
                a = np.flip(a, along) if reverse else a
                if exclusive:
                    a = np.delete(np.insert(a, 0, neutral, axis=along), -1, axis=along)
                total = ufunc.accumulate(a, axis=along, dtype=a.dtype)
                return np.flip(total, along) if reverse else total

            return in_float64(run, (x,), {}, x.dtype)

        def decompose(b: Builder, node: Node) -> Value | None:
            x, axis = node.inputs
            known = b.contents(axis)
            if known is None:
                return None
            shape = known_shape(x)
            along = int(known.reshape(())) % len(shape)
            if isinstance(shape[along], int) and shape[along] > QUADRATIC_LIMIT:
                return _doubled(b, x, along, combine, neutral, node.attrs)
            return _masked(b, x, along, fn, neutral, node.attrs)

        def samples(rng: np.random.Generator) -> Iterator[Sample]:
            x = rng.uniform(0.5, 1.5, (2, 7, 3))
            for dtype in (np.float32, np.float64, np.int64, np.int32):
                yield Sample(((x * 2).astype(dtype), np.array(1)), tolerance=64, name=np.dtype(dtype).name)
            single = x.astype(np.float32)
            for exclusive, reverse in ((1, 0), (0, 1), (1, 1)):
                flags = {"exclusive": exclusive, "reverse": reverse}
                yield Sample((single, np.array(-1)), flags, 16, f"exclusive{exclusive} reverse{reverse}")
                long = rng.uniform(0.99, 1.01, (1030, 1)).astype(np.float32)
                yield Sample((long, np.array(0)), flags, 4096, f"long exclusive{exclusive} reverse{reverse}")


def _masked(b: Builder, x: Value, axis: int, fn: str, neutral: int, attrs: Any) -> Value:
    """Each result reduces the whole row with the elements on its other side neutral."""
    shape = known_shape(x)
    rank = len(shape)
    last = (*(a for a in range(rank) if a != axis), axis)
    turned = b.emit("transpose", x, perm=last) if axis != rank - 1 else x
    outer = tuple(shape[a] for a in last[:-1])
    rows = b.emit("reshape", turned, b.sizes((*outer, 1, shape[axis])))
    places = b.emit("map", hint="place", outputs=(index(0),), shape=(shape[axis], 1))
    value, here, there = operand(0, rows), arg(1, dtypes.int64), index(rank)
    relation = {(0, 0): "le", (1, 0): "lt", (0, 1): "ge", (1, 1): "gt"}[
        bool(attrs["exclusive"]), bool(attrs["reverse"])
    ]
    stage = Stage(fn, select(apply(relation, there, here), value, const(neutral, value.dtype)))
    row = cast(stat(0, value.dtype), x.type.dtype)
    total = b.emit("reduce", rows, places, axes=(rank,), keepdims=False, stages=(stage,), rows=(row,))
    return b.emit("transpose", total, perm=tuple(int(i) for i in np.argsort(last))) if axis != rank - 1 else total


def _doubled(b: Builder, x: Value, axis: int, combine: str, neutral: int, attrs: Any) -> Value:
    """Each pass combines an element with the one `step` before it, step doubling (Hillis and Steele, 1986)."""
    length: Any = known_shape(x)[axis]
    backward = bool(attrs["reverse"])
    total = _shifted(b, x, axis, 1, neutral, backward) if attrs["exclusive"] else x
    step = 1
    while step < length:
        moved = _shifted(b, total, axis, step, neutral, backward)
        both = apply(combine, operand(0, total), operand(1, moved))
        total = emit_map(b, cast(both, x.type.dtype), total, moved, hint="running")
        step *= 2
    return total


def _shifted(b: Builder, x: Value, axis: int, step: int, neutral: int, backward: bool) -> Value:
    """x moved along an axis, the gap filled with `neutral`."""
    shape = known_shape(x)
    near, far = (tuple(sign * step if a == axis else 0 for a in range(len(shape))) for sign in (1, -1))
    before, after = (far, near) if backward else (near, far)
    fill = b.constant(neutral, dtype=x.type.dtype)
    return b.emit("pad", x, fill, before=before, after=after, mode="constant")


_declare_running("cum_sum", "CumSum", "sum")
_declare_running("cum_prod", "CumProd", "prod")
