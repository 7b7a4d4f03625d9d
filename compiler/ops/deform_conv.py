"""DeformConv: a convolution whose kernel positions are moved by data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import arg, cast, index
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.core_products import window_sizes
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, operand, wide
from compiler.ops.rounding import round_to
from compiler.ops.sampling import Positions, Taps, combine, place_taps
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ATTRS = {"dilations": None, "group": 1, "kernel_shape": None, "offset_group": 1, "pads": None, "strides": None}


def _window(attrs: Any, rank: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Strides, dilations and pads (begin.., end..) of `rank` spatial axes."""
    ones = (1,) * rank
    return attrs["strides"] or ones, attrs["dilations"] or ones, attrs["pads"] or (0,) * 2 * rank


def _kernel_positions(kernel: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """Where each position of the kernel lies before it is moved, flattened: [axis, position]."""
    grid = np.indices(kernel).reshape(len(kernel), -1)
    return grid * np.reshape(dilations, (-1, 1))


@op("deform_conv", onnx=OnnxRow("DeformConv", _ATTRS), attrs=_ATTRS)
class DeformConv:
    """x [N,C,S..], w [O,C/group,K..], offset [N,offset_group*K*d,out..], bias [O] or none, mask
    [N,offset_group*K,out..] or none -> [N,O,out..].

    Every kernel position (K of them over d axes) is moved by its offset, a number of elements an axis for each group of
    channels, and x sampled there linearly, 0 outside; the mask weighs the samples. As Zhu et al. 2019 define it.
    """

    def infer(call: Call) -> list[TensorType]:
        x, w, offset, attrs = call.tensor(0), call.tensor(1), call.tensor(2), call.attrs
        dtype = call.same_dtype(*(i for i in range(5) if call.optional(i) is not None))
        check_kind(call, dtype, FLOAT)
        if x.shape is None or w.shape is None or offset.shape is None:
            return [TensorType(dtype, None)]
        rank = len(x.shape) - 2
        if rank < 1 or len(w.shape) != rank + 2 or len(offset.shape) != rank + 2:
            call.shape_error(
                f"found x {x}, w {w}, offset {offset}; expected [N, C, S..], [O, C/group, K..], [N, M, out..]"
            )
        kernel = w.shape[2:]
        if not dims.is_static(kernel):
            call.shape_error(f"the kernel of w {w} has no fixed size; fix these dims")
        call.same_size(x.shape[1], w.shape[1] * attrs["group"], "the number of channels (of x, of w times group)")
        moved = attrs["offset_group"] * math.prod(kernel)  # type: ignore[arg-type]
        call.same_size(offset.shape[1], moved * rank, "the number of offsets a position (of offset, of w)")
        mask = call.optional(4)
        if mask is not None and mask.shape is not None:
            call.same_size(mask.shape[1], moved, "the number of weights a position (of mask, of w)")
        out = window_sizes(x.shape[2:], kernel, *_window(attrs, rank))
        out = [call.same_size(a, b, "an output size") for a, b in zip(offset.shape[2:], out, strict=True)]
        return [TensorType(dtype, (x.shape[0], w.shape[0], *out))]

    def reference(
        x: np.ndarray,
        w: np.ndarray,
        offset: np.ndarray,
        bias: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        **attrs: Any,
    ) -> np.ndarray:
        (n, c, *sizes), (o, _, *kernel), out = x.shape, w.shape, offset.shape[2:]
        rank, groups, count = len(sizes), attrs["offset_group"], math.prod(kernel)
        strides, dilations, pads = _window(attrs, rank)
        moves = offset.astype(np.float64).reshape(n, groups, count, rank, *out)
        fixed = _kernel_positions(kernel, dilations)
        taps = []
        for a in range(rank):
            steps = np.arange(out[a]) * strides[a] - pads[a]
            at = moves[:, :, :, a] + fixed[a].reshape(-1, *[1] * rank) + steps.reshape(-1, *[1] * (rank - 1 - a))
            taps.append([_tap(at, np.floor(at) + side, sizes[a]) for side in (0, 1)])
        image = x.astype(np.float64).reshape(n, groups, c // groups, *sizes)
        where = np.ix_(range(n), range(groups), range(c // groups))
        lead = [i.reshape(*i.shape, *[1] * (rank + 1)) for i in where]
        columns = np.zeros((n, groups, c // groups, count, *out))
        for chosen in itertools.product(*taps):
            weight = np.prod([each[1] for each in chosen], axis=0)[:, :, None]
            columns += image[(*lead, *(each[0][:, :, None] for each in chosen))] * weight
        if mask is not None:
            columns *= mask.astype(np.float64).reshape(n, groups, 1, count, *out)
        group = attrs["group"]
        left = w.astype(np.float64).reshape(group, o // group, -1)
        right = columns.reshape(n, group, (c // group) * count, math.prod(out))
        result = np.matmul(left, right).reshape(n, o, *out)
        if bias is not None:
            result += bias.astype(np.float64).reshape(-1, *[1] * rank)
        return round_to(result, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, w, offset, bias, mask = (*node.inputs, None, None)[:5]
        n, c, *sizes = known_shape(x)
        o, _, *kernel = known_shape(w)
        out, attrs = known_shape(offset)[2:], node.attrs
        rank, groups, count = len(sizes), attrs["offset_group"], math.prod(kernel)  # type: ignore[arg-type]
        space = (n, *out, count, groups)
        axes = [_axis_taps(b, node, a, space) for a in range(rank)]
        if mask is not None:
            axes[0] = _weighed(b, axes[0], _last(b, mask, (n, groups, count, *out)))
        rows = b.emit("transpose", x, perm=(0, *range(2, rank + 2), 1))
        area = dims.product(sizes)
        rows = b.emit("reshape", rows, b.sizes((n * area * groups, c // groups)))
        strides = [dims.product(sizes[a + 1 :]) * groups for a in range(rank)]
        offsets = ((0, area * groups), (rank + 2, 1))
        columns = combine(b, rows, axes, strides, space, offsets, hint="deformed")
        group, positions = attrs["group"], n * dims.product(out)
        columns = b.emit("reshape", columns, b.sizes((positions, count, group, c // group)))
        columns = b.emit("transpose", columns, perm=(2, 0, 1, 3))
        columns = b.emit("reshape", columns, b.sizes((group, positions, count * (c // group))))
        weights = b.emit("reshape", w, b.sizes((group, o // group, c // group, count)))
        weights = b.emit("transpose", weights, perm=(0, 3, 2, 1))
        weights = b.emit("reshape", weights, b.sizes((group, count * (c // group), o // group)))
        product = b.emit("transpose", b.emit("matmul", columns, weights, hint="deform_conv"), perm=(1, 0, 2))
        result = b.emit("reshape", product, b.sizes((n, *out, o)))
        if bias is not None:
            total = cast(operand(0, result) + operand(1, bias), x.type.dtype)
            result = emit_map(b, total, result, bias, hint="deform_conv")
        return b.emit("transpose", result, perm=(0, rank + 1, *range(1, rank + 1)))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        x = draw(2, 4, 5, 6)
        yield Sample((x, draw(3, 4, 2, 2), draw(2, 8, 4, 5)), {}, 64, "plain")
        padded = {"pads": (1, 0, 2, 1), "strides": (2, 1), "dilations": (1, 2), "group": 2, "offset_group": 2}
        full = (x, draw(6, 2, 3, 2), draw(2, 24, 3, 5), draw(6), draw(2, 12, 3, 5))
        yield Sample(full, padded, 64, "groups")
        yield Sample((x, draw(3, 4, 3, 3), draw(2, 18, 3, 4) * 9, None, draw(2, 9, 3, 4)), {}, 64, "far")
        line = (draw(1, 17, 9), draw(5, 17, 3), draw(1, 3, 9), draw(5))
        yield Sample(tuple(a.astype(np.float64) for a in line), {"pads": (1, 1)}, 64, "line")
        yield Sample((draw(1, 2, 3, 4, 3), draw(2, 2, 1, 2, 1), draw(1, 6, 3, 3, 3)), {}, 64, "volume")
        whole = np.round(draw(2, 8, 4, 5))
        yield Sample((x, draw(3, 4, 2, 2), whole), {}, 64, "whole")


def _tap(at: np.ndarray, place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    inside = (place >= 0) & (place < size)
    return np.clip(place, 0, size - 1).astype(np.int64), np.where(inside, 1 - np.abs(at - place), 0.0)


def _last(b: Builder, value: Value, shape: Sequence[Size]) -> Value:
    """[N, groups, K, out..] seen as [N, out.., K, groups]."""
    apart = b.emit("reshape", value, b.sizes(shape))
    return b.emit("transpose", apart, perm=(0, *range(3, len(shape)), 2, 1))


def _axis_taps(b: Builder, node: Node, axis: int, space: Sequence[Size]) -> Taps:
    """The taps of every kernel position along an axis, over space [N, out.., K, groups]."""
    x, w, offset = node.inputs[:3]
    assert x is not None and w is not None and offset is not None
    rank = len(known_shape(x)) - 2
    strides, dilations, pads = _window(node.attrs, rank)
    n, *out, count, groups = space
    moves = b.emit("reshape", offset, b.sizes((n, groups, count, rank, *out)))
    starts = tuple(axis if i == 3 else 0 for i in range(rank + 4))
    sizes = (n, groups, count, 1, *out)
    moves = b.emit("slice", moves, starts=starts, sizes=sizes, steps=(1,) * len(starts))
    fixed = _kernel_positions(known_shape(w)[2:], dilations)[axis].astype(np.float64)  # type: ignore[arg-type]
    operands = Positions(b)
    moved = operands.real(_last(b, moves, (n, groups, count, *out)))
    kernel = operands.real(b.constant(fixed.reshape(-1, 1), "kernel"))
    window = cast(index(2 + axis), dtypes.float64) * strides[axis] - pads[axis]
    dtype = wide(x.type.dtype)
    return place_taps(b, moved + (kernel + window), operands, space, known_shape(x)[2 + axis], "linear", "zeros", dtype)


def _weighed(b: Builder, taps: Taps, mask: Value) -> Taps:
    """Taps with their weights multiplied by a mask over their space."""
    assert taps.weights is not None
    dtype = taps.weights.type.dtype
    weight = arg(0, dtype) * cast(arg(1, mask.type.dtype), dtype)
    return Taps(taps.places, emit_map(b, weight, taps.weights, mask, hint="weights"))
