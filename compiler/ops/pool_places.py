"""Where maxima of pooling windows lie, and putting them back: MaxPool's Indices, MaxUnpool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, cast, const, index, select
from compiler.ir import Node, Value
from compiler.kernels import computes
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.core_pool import pool_sizes
from compiler.ops.elementwise import widened
from compiler.ops.extents import larger
from compiler.ops.indexing import Operands
from compiler.ops.scatter import scatter_rows
from compiler.ops.shape import known_shape, listed, unknown_shape, vector_length
from compiler.types import TensorType, contiguous_strides

_TOGETHER = 16  # kernel positions one map compares


def plane_strides(sizes: Sequence[Size], column_major: bool) -> tuple[Size, ...]:
    """How far apart neighbours along each spatial axis are counted."""
    return contiguous_strides(sizes[::-1])[::-1] if column_major else contiguous_strides(sizes)


@op(
    "max_pool_places",
    attrs={
        "kernel": REQUIRED,
        "strides": REQUIRED,
        "dilations": REQUIRED,
        "pads": REQUIRED,
        "ceil_mode": False,
        "column_major": False,
        "whole": False,
    },
    host_reason="no kernel computes on this type",
)
class MaxPoolPlaces:
    """Where in x [N, C, spatial..] the maximum of each of core pool's windows lies: the flat int64 position in its
    spatial plane (`column_major`: the first spatial axis counted fastest), or (`whole`) in all of x.

    Of equal elements the first counts, of NaNs, which exceed all, the last, as in torch.
    """

    def infer(call: Call) -> list[TensorType]:
        x, attrs = call.tensor(0), call.attrs
        if x.shape is None:
            return [TensorType(dtypes.int64, None)]
        if len(attrs["kernel"]) != len(x.shape) - 2:
            call.shape_error(f"kernel {attrs['kernel']} does not fit {x}; expected one size a spatial axis")
        return [TensorType(dtypes.int64, (*x.shape[:2], *_out_sizes(x.shape, attrs)))]

    def reference(x: np.ndarray, **attrs: Any) -> np.ndarray:
        sizes, out = x.shape[2:], _out_sizes(x.shape, attrs)
        steps = plane_strides(sizes, attrs["column_major"])
        best, found = np.zeros((*x.shape[:2], *out), x.dtype), np.full((*x.shape[:2], *out), -1)
        for at in np.ndindex(*attrs["kernel"]):
            picks, place, inside = [], np.zeros([1] * len(out), np.int64), np.ones([1] * len(out), bool)
            for a, k in enumerate(at):
                where = np.arange(out[a]) * attrs["strides"][a] + k * attrs["dilations"][a] - attrs["pads"][a]
                line = where.reshape([-1 if i == a else 1 for i in range(len(out))])
                place, inside = place + line * steps[a], inside & (line >= 0) & (line < sizes[a])
                picks.append(np.clip(where, 0, sizes[a] - 1))
            taken = x[(slice(None), slice(None), *np.ix_(*picks))]
            better = inside & ((found < 0) | (taken > best) | (taken != taken))
            best, found = np.where(better, taken, best), np.where(better, place, found)
        if attrs["whole"]:
            planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(out))
            found = found + planes * int(np.prod(sizes))
        return found

    def decompose(b: Builder, node: Node) -> Value | None:
        x, attrs = node.inputs[0], node.attrs
        if not computes(x.type.dtype):
            return None
        sizes = known_shape(x)[2:]
        steps, count = plane_strides(sizes, attrs["column_major"]), len(sizes)
        best, place = x, None
        # Along one axis after another, the last first: the first maximum in row-major order is among the first of rows.
        for a in reversed(range(count)):
            window = _Window(
                2 + a, attrs["kernel"][a], attrs["strides"][a], attrs["dilations"][a], attrs["pads"][a], sizes[a]
            )
            best, place = window.step(b, best, place, steps[a], known_shape(node.output)[2 + a])
        if attrs["whole"]:
            operands = Operands(b)
            plane = operands.size(dims.product(sizes))
            shape = known_shape(x)
            offset = (index(0) * operands.size(shape[1]) + index(1)) * plane
            found = operands.tensor(place) + offset
            return b.emit("map", *operands.values, outputs=(found,), shape=None, hint="max_pool_places")
        return place

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.integers(-3, 3, (2, 3, 7, 6))
        attrs = {"kernel": (3, 2), "strides": (2, 1), "dilations": (1, 1), "pads": (1, 0, 1, 1)}
        for dtype in (np.float32, np.int8, np.float16):
            yield Sample((x.astype(dtype),), attrs, name=np.dtype(dtype).name)
        yield Sample((x.astype(np.float64),), {**attrs, "whole": True, "column_major": True}, name="column major")
        ceil = {"kernel": (2, 2), "strides": (2, 3), "dilations": (3, 1), "pads": (1, 1, 0, 0), "ceil_mode": True}
        yield Sample((x.astype(np.float32),), ceil, name="ceil")
        odd = np.where(x > 1, np.nan, np.where(x < 0, -np.inf, x)).astype(np.float32)
        yield Sample((odd,), attrs, name="special")
        line = {"kernel": (19,), "strides": (3,), "dilations": (1,), "pads": (9, 9)}
        yield Sample((x.reshape(2, 3, 42).astype(np.float32),), line, name="long")
        cube = {"kernel": (2, 2, 2), "strides": (1, 2, 1), "dilations": (1, 1, 1), "pads": (0,) * 6}
        yield Sample((x.reshape(2, 1, 3, 7, 6).astype(np.float32),), {**cube, "whole": True}, name="three axes")


def _out_sizes(shape: Sequence[Size], attrs: Any) -> list[Any]:
    names = ("kernel", "strides", "dilations", "pads", "ceil_mode")
    return pool_sizes(shape[2:], *(attrs[name] for name in names))


class _Window:
    """The positions of one axis that windows of `kernel` positions meet, `before` of padding in front of `size`."""

    def __init__(self, axis: int, kernel: int, stride: int, dilation: int, before: Size, size: Size) -> None:
        self.axis, self.kernel, self.stride, self.dilation, self.before = axis, kernel, stride, dilation, before
        self.size = size

    def step(self, b: Builder, best: Value, place: Value | None, step: Size, out: Size) -> tuple[Value, Value]:
        """The maxima of windows along the axis, and their places: `place` of the maximum plus its position times
        `step`."""
        after = larger((out - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - self.before - self.size, 0)
        padded = (self.before, after) != (0, 0)
        tables = [self._padded(b, value, after) for value in (best, *([place] if place else []))]
        state: list[Value] = []
        for first in range(0, self.kernel, _TOGETHER):
            positions = range(first, min(first + _TOGETHER, self.kernel))
            state = self._compare(b, tables, state, positions, step, out, padded)
        return state[0], state[1]

    def _padded(self, b: Builder, value: Value, after: Size) -> Value:
        if (self.before, after) == (0, 0):
            return value
        sides = [
            [side if a == self.axis else 0 for a in range(len(known_shape(value)))] for side in (self.before, after)
        ]
        return b.emit("pad", value, before=tuple(sides[0]), after=tuple(sides[1]))

    def _compare(
        self,
        b: Builder,
        tables: Sequence[Value],
        state: Sequence[Value],
        positions: range,
        step: Size,
        out: Size,
        padded: bool,
    ) -> list[Value]:
        """State (best, its place, whether there is one) after more positions of the windows."""
        dtype = tables[0].type.dtype
        operands = Operands(b)
        size, step_size = operands.size(self.size) if padded else None, operands.size(step)

        def read(value: Value) -> Expr:
            operands.values.append(value)
            return arg(len(operands.values) - 1, value.type.dtype)

        held = tuple(map(read, state)) if state else None
        for k in positions:
            element, *before = (read(self._slice(b, table, k, out)) for table in tables)
            where = index(self.axis) * self.stride + operands.size(k * self.dilation - self.before)
            place = where * step_size + before[0] if before else where * step_size
            inside = _inside(where, size) if size is not None else const(True, dtypes.boolean)
            held = (element, place, inside) if held is None else _better(held, element, place, inside)
        assert held is not None, "a kernel has positions"
        exprs = (cast(held[0], dtype), *held[1:])
        return list(b.emit_many("map", operands.values, {"outputs": exprs, "shape": None}, ("best", "place", "found")))

    def _slice(self, b: Builder, value: Value, k: int, out: Size) -> Value:
        shape = known_shape(value)
        return b.emit(
            "slice",
            value,
            starts=tuple(k * self.dilation if a == self.axis else 0 for a in range(len(shape))),
            sizes=tuple(out if a == self.axis else size for a, size in enumerate(shape)),
            steps=tuple(self.stride if a == self.axis else 1 for a in range(len(shape))),
        )


def _inside(position: Expr, size: Expr) -> Expr:
    return apply("and", apply("ge", position, const(0, dtypes.int64)), apply("lt", position, size))


def _better(held: Sequence[Expr], element: Expr, place: Expr, inside: Expr) -> tuple[Expr, Expr, Expr]:
    best, old, found = held
    exceeds = apply("or", apply("gt", widened(element), widened(best)), apply("not", found))
    if element.dtype.is_float:
        exceeds = apply("or", exceeds, apply("ne", widened(element), widened(element)))
    take = apply("and", exceeds, inside)
    return select(take, element, best), select(take, place, old), apply("or", found, inside)


_UNPOOL = {"kernel_shape": REQUIRED, "pads": None, "strides": None}


@op(
    "max_unpool",
    onnx=OnnxRow("MaxUnpool", _UNPOOL),
    attrs=_UNPOOL,
    value_operands=(2,),
    host_reason="the result's shape is computed in the graph",
)
class MaxUnpool:
    """Zeros with the elements of x [N, C, spatial..] put at the flat places of operand 1 in the shape a pool with these
    attributes would have come from; operand 2, if given, is a larger shape that this is the beginning of."""

    def infer(call: Call) -> list[TensorType]:
        x, attrs = call.tensor(0), call.attrs
        if x.shape is None:
            return [x]
        if len(attrs["kernel_shape"]) != len(x.shape) - 2:
            call.shape_error(f"kernel {attrs['kernel_shape']} does not fit {x}; expected one size a spatial axis")
        if call.optional(2) is None:
            return [TensorType(x.dtype, _unpooled(x.shape, attrs))]
        wanted = call.value(2)
        if wanted is None:
            return [TensorType(x.dtype, unknown_shape(call, vector_length(call, 2)))]
        least, shape = _unpooled(x.shape, attrs), tuple(listed(wanted))
        if len(shape) != len(least) or any(
            dims.is_static((big, n)) and big < n for big, n in zip(shape, least, strict=False)
        ):
            call.shape_error(f"output_shape {shape}; expected at least {least}")
        return [TensorType(x.dtype, shape)]

    def reference(x: np.ndarray, places: np.ndarray, shape: np.ndarray | None = None, **attrs: Any) -> np.ndarray:
        inner: Any = _unpooled(x.shape, attrs)
        flat = np.zeros(int(np.prod(inner)), x.dtype)
        flat[places.reshape(-1)] = x.reshape(-1)
        if shape is None:
            return flat.reshape(inner)
        result = np.zeros(tuple(int(size) for size in shape), x.dtype)
        result[tuple(np.s_[:size] for size in inner)] = flat.reshape(inner)
        return result

    def decompose(b: Builder, node: Node) -> Value | None:
        x, places = node.inputs[:2]
        if len(node.inputs) > 2 and b.contents(node.inputs[2]) is None:
            return None
        inner, outer = _unpooled(known_shape(x), node.attrs), known_shape(node.output)
        zeros = b.emit("map", outputs=(const(0, x.type.dtype),), shape=inner, hint="zeros")
        filled = scatter_rows(b, zeros, places, x, len(inner), "none", "max_unpool")
        if inner == outer:
            return filled
        after = tuple(big - small for big, small in zip(outer, inner, strict=True))
        return b.emit("pad", filled, before=(0,) * len(inner), after=after)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((1, 2, 2, 3)).astype(np.float32)
        places = rng.permutation(48)[:12].reshape(x.shape)
        attrs = {"kernel_shape": (2, 2), "strides": (2, 2)}
        yield Sample((x, places), attrs)
        yield Sample((x, places, np.array([1, 2, 5, 7])), attrs, name="shape")
        yield Sample((x, places % 8), {"kernel_shape": (3, 2), "pads": (1, 0, 1, 1)}, name="pads")


def _unpooled(shape: Sequence[Size], attrs: Any) -> tuple[Size, ...]:
    kernel = attrs["kernel_shape"]
    count = len(kernel)
    strides, pads = attrs["strides"] or (1,) * count, attrs["pads"] or (0,) * 2 * count
    spatial = ((shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[count + i] for i in range(count))
    return (*shape[:2], *spatial)
