"""Core ops that compute: map and reduce. All elementwise math, softmax, norms and reductions end up as these two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, extent, kept, stat, walk
from compiler.ir import Node
from compiler.kernels import Stage
from compiler.lowering.maps import lower_reduce
from compiler.op import REQUIRED, Call, Sample, op
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("map", attrs={"outputs": REQUIRED, "shape": None})
class Map:
    """Expressions of the operands' elements, operands broadcast to one shape; one output an expression."""

    def infer(call: Call) -> list[TensorType]:
        check_arguments(call, call.attrs["outputs"])
        shapes = [call.tensor(i).shape for i in range(len(call.inputs))]
        if any(shape is None for shape in shapes):
            return [TensorType(e.dtype, None) for e in call.attrs["outputs"]]
        shape = call.broadcast(*shapes, call.attrs["shape"] or ())
        return [TensorType(e.dtype, shape) for e in call.attrs["outputs"]]

    def reference(*arrays: np.ndarray, outputs: Sequence[Expr], shape: Sequence[Size] | None) -> Any:
        from compiler.evaluate import evaluate

        full = np.broadcast_shapes(*(a.shape for a in arrays), tuple(shape or ()))  # type: ignore[arg-type]

        def leaf(node: Expr) -> np.ndarray:
            return arrays[node.value] if node.op == "arg" else position(node.value, full)

        with np.errstate(all="ignore"):
            results = evaluate(tuple(outputs), leaf, "truth")
        return tuple(np.array(np.broadcast_to(r, full)) for r in results)

    def lower(node: Node, low: Lowering) -> None:
        shape = node.output.type.shape
        order = low.layout_of([v for v in node.inputs if v is not None], shape)
        outs = [low.allocate(value, order) for value in node.outputs]
        low.map(node.attrs["outputs"], [low.broadcast_view(v, shape) for v in node.inputs], outs)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        a, b = arg(0, dtypes.float32), arg(1, dtypes.float32)
        x, y = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((5,)).astype(np.float32)
        yield Sample((x, y), {"outputs": (a * b + 1.0, a - b)})


@op("reduce", attrs={"axes": REQUIRED, "keepdims": True, "stages": REQUIRED, "elements": (), "rows": ()})
class Reduce:
    """A row program over `axes` (see kernels.ReduceSpec): element outputs, then row outputs."""

    def infer(call: Call) -> list[TensorType]:
        attrs = call.attrs
        check_arguments(call, [*(s.expr for s in attrs["stages"]), *attrs["elements"], *attrs["rows"]])
        shapes = [call.tensor(i).shape for i in range(len(call.inputs))]
        exprs = (*attrs["elements"], *attrs["rows"])
        if any(shape is None for shape in shapes):
            return [TensorType(e.dtype, None) for e in exprs]
        full = call.broadcast(*shapes)
        axes = [call.axis(a, len(full)) for a in attrs["axes"]]
        row = row_shape(full, axes, attrs["keepdims"])
        elements = [TensorType(e.dtype, full) for e in attrs["elements"]]
        return elements + [TensorType(e.dtype, row) for e in attrs["rows"]]

    def reference(
        *arrays: np.ndarray,
        axes: Sequence[int],
        keepdims: bool,
        stages: Sequence[Stage],
        elements: Sequence[Expr],
        rows: Sequence[Expr],
    ) -> Any:
        from compiler.evaluate import evaluate

        full = np.broadcast_shapes(*(a.shape for a in arrays))
        axes = tuple(a % len(full) for a in axes) if full else ()
        count = int(np.prod([full[a] for a in axes], dtype=np.int64))
        stats: list[np.ndarray] = []
        keeps: dict[int, np.ndarray] = {}

        def leaf(node: Expr) -> np.ndarray:
            if node.op == "arg":
                return arrays[node.value]
            if node.op == "index":
                return position(node.value, full)
            if node.op == "stat":
                return stats[node.value]
            if node.op == "kept":
                return keeps[node.value]
            return np.asarray(count, node.dtype.numpy)

        with np.errstate(all="ignore"):
            for number, stage in enumerate(stages):
                keeps[number] = np.broadcast_to(evaluate((stage.expr,), leaf, "truth")[0], full)
                stats.append(reduce_array(stage.fn, keeps[number], axes))
            results = [np.array(np.broadcast_to(r, full)) for r in evaluate(tuple(elements), leaf, "truth")]
            row = tuple(1 if a in axes else n for a, n in enumerate(full))
            for result in evaluate(tuple(rows), leaf, "truth"):
                spread = np.array(np.broadcast_to(result, row))
                results.append(spread if keepdims else spread.squeeze(axes))
        return tuple(results)

    def lower(node: Node, low: Lowering) -> None:
        lower_reduce(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((3, 4, 5)).astype(np.float32)
        a = arg(0, dtypes.float32)
        shifted = apply("exp", a - stat(0, dtypes.float32))
        softmax = (Stage("max", a), Stage("sum", shifted, keep=True))
        probability = kept(1, dtypes.float32) / stat(1, dtypes.float32)
        yield Sample((x,), {"axes": (2,), "stages": softmax, "elements": (probability,)}, 4, "softmax")
        mean = stat(0, dtypes.float32) / extent(dtypes.float32)
        yield Sample((x,), {"axes": (0, 2), "keepdims": False, "stages": (Stage("sum", a),), "rows": (mean,)}, 8)
        first = {"axes": (1,), "stages": (Stage("argmax", a),), "rows": (stat(0, dtypes.int64),)}
        yield Sample((x,), first, name="argmax")


def check_arguments(call: Call, exprs: Sequence[Expr]) -> None:
    """Every arg an expression reads must be an operand of that type. Raises DtypeError otherwise."""
    for node in walk(tuple(exprs)):
        if node.op == "arg" and call.tensor(node.value).dtype != node.dtype:
            call.dtype_error(
                f"operand {node.value} is {call.tensor(node.value).dtype}, the expression wants {node.dtype}"
            )


def row_shape(full: Sequence[Size], axes: Sequence[int], keepdims: bool) -> tuple[Size, ...]:
    """The shape left after reducing `axes`."""
    return tuple(1 if a in axes else n for a, n in enumerate(full) if keepdims or a not in axes)


def position(axis: int, shape: Sequence[int]) -> np.ndarray:
    """The coordinate along `axis` at every position of `shape`, broadcastable to it."""
    return np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])


def reduce_array(fn: str, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """One reduction with dimensions kept. Float sums and products run in float64 (complex128) and round once."""
    if fn in ("argmax", "argmin"):
        kept_axes = [a for a in range(x.ndim) if a not in axes]
        row = math.prod(x.shape[a] for a in axes)
        flat = np.transpose(x, [*kept_axes, *axes]).reshape(*(x.shape[a] for a in kept_axes), row)
        found = (np.argmax if fn == "argmax" else np.argmin)(flat, axis=-1)
        return found.reshape([1 if a in axes else n for a, n in enumerate(x.shape)])
    if fn in ("any", "all"):
        return (np.any if fn == "any" else np.all)(x, axis=axes, keepdims=True)
    if fn in ("max", "min"):
        return (np.max if fn == "max" else np.min)(x, axis=axes, keepdims=True, initial=identity(fn, x.dtype))
    wide = np.float64 if dtypes.from_numpy(x.dtype).is_float else x.dtype
    return (np.sum if fn == "sum" else np.prod)(x, axis=axes, keepdims=True, dtype=wide).astype(x.dtype)


def identity(fn: str, dtype: np.dtype) -> Any:
    """The result of `fn` over no elements."""
    if fn in ("sum", "any"):
        return dtype.type(0)
    if fn in ("prod", "all"):
        return dtype.type(1)
    kind = dtypes.from_numpy(dtype)
    if kind.is_float:
        return dtype.type(-np.inf if fn == "max" else np.inf)
    if kind == dtypes.boolean:
        return dtype.type(fn == "min")
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if fn == "max" else limits.max)
