"""Sampling at computed positions: along each axis a few *taps* with weights, and the sum of the rows picked at every
combination of them. Grid sampling, deformable convolution and RoI pooling come down to this.

Positions, places and weights of taps are float64 until they are used: they are few beside the rows they apply to, and
a place rounded the other way would be another element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, index, select
from compiler.ir import Value
from compiler.ops.elementwise import wide
from compiler.ops.indexing import Operands
from compiler.ops.shape import known_shape

NARROW = 8  # fewer channels than this are no row worth moving: the positions are the long axis
TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
Padding = Literal["zeros", "border", "reflection"]


@dataclass(frozen=True)
class Taps:
    """Samples along one axis. places: int64 [taps, *space], inside the axis; weights: [taps, *space] of a float type,
    or None where all are 1. A tap of weight 0 is not read."""

    places: Value
    weights: Value | None


class Positions(Operands):
    """The operands of expressions of positions, all float64."""

    def real(self, value: Value) -> Expr:
        """The element of a tensor."""
        self.values.append(value)
        return cast(arg(len(self.values) - 1, value.type.dtype), dtypes.float64)

    def length(self, size: Size) -> Expr:
        """A size."""
        return cast(self.size(size), dtypes.float64)


def linear_weight(distance: Expr) -> Expr:
    """The hat function of a distance that is not negative."""
    return apply("max", 1 - distance, const(0, distance.dtype))


def cubic_weight(distance: Expr, a: float) -> Expr:
    """Keys' cubic convolution kernel (1981) of a distance that is not negative."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    inside = select(apply("lt", distance, const(2, distance.dtype)), far, const(0, distance.dtype))
    return select(apply("le", distance, const(1, distance.dtype)), near, inside)


def clip(x: Expr, low: Expr | float, high: Expr) -> Expr:
    """x between low and high; NaN stays."""
    low = low if isinstance(low, Expr) else const(low, x.dtype)
    return apply("min", apply("max", x, low), high)


def reflect(x: Expr, low: Expr, high: Expr) -> Expr:
    """x mirrored at low and high until it lies between them; low where they are one."""
    span = high - low
    whole = apply("max", span, const(1, x.dtype))  # of no length: any number, the result is clipped
    distance = apply("abs", x - low)
    turns = apply("floor", distance / whole)
    rest = distance - turns * whole
    even = apply("eq", turns, apply("floor", turns * 0.5) * 2)
    return clip(low + select(even, rest, span - rest), low, high)


def place_taps(
    b: Builder,
    position: Expr,
    operands: Positions,
    space: Sequence[Size],
    size: Size,
    mode: str,
    padding: Padding,
    dtype: DType,
    edges: tuple[Expr, Expr] | None = None,
) -> Taps:
    """The taps of `position` (float64 over `operands`, which broadcast to `space`) on an axis of `size`.

    mode: nearest (halves to even), linear or cubic (a = -0.75). padding: what taps outside count as; reflection needs
    `edges`, the positions to mirror at. dtype: of the weights.
    """
    last = operands.length(size) - 1
    if mode == "nearest":
        place = apply("rint", position)
    else:
        tap = cast(index(0), dtypes.float64)
        place = apply("floor", position) + (tap - 1 if mode == "cubic" else tap)
    distance = apply("abs", position - place)
    weight = {
        "nearest": lambda: const(1, dtypes.float64),
        "linear": lambda: linear_weight(distance),
        "cubic": lambda: cubic_weight(distance, -0.75),
    }[mode]()
    if padding == "zeros":
        inside = apply("and", apply("ge", place, const(0, dtypes.float64)), apply("le", place, last))
        weight = select(inside, weight, const(0, dtypes.float64))
    elif padding == "reflection":
        assert edges is not None
        place = reflect(place, *edges)
    places = cast(clip(place, 0, last), dtypes.int64)
    weighted = mode != "nearest" or padding == "zeros"
    outputs = (places, cast(weight, dtype)) if weighted else (places,)
    made = b.emit_many(
        "map", operands.values, {"outputs": outputs, "shape": (TAPS[mode], *space)}, ("places", "weights")
    )
    return Taps(made[0], made[1] if weighted else None)


def combine(
    b: Builder,
    rows: Value,
    axes: Sequence[Taps],
    strides: Sequence[Size],
    space: Sequence[Size],
    offsets: Sequence[tuple[int, Size]] = (),
    *,
    samples: int = 0,
    fn: Literal["sum", "max"] = "sum",
    divisor: int = 1,
    hint: str,
) -> Value:
    """Rows [R, C] picked at every combination of taps, weighted and added over the taps and the first `samples` axes of
    the space: [*rest of the space, C].

    The row of a combination is the sum of its places times `strides`, plus index(axis) * stride for `offsets`. Taps
    broadcast to `space`. fn "sum" divides by `divisor`; "max" takes the greatest weighted tap. Elements that are no
    floats are only picked, or left 0 where their weight is.
    """
    count, left = len(axes), tuple(space[samples:])
    taps_shape = tuple(known_shape(taps.places)[0] for taps in axes)
    full, added = (*taps_shape, *space), dims.product((*taps_shape, *space[:samples]))
    operands = Operands(b)
    terms = [
        operands.tensor(_spread(b, taps.places, i, count)) * operands.size(stride)
        for i, (taps, stride) in enumerate(zip(axes, strides, strict=True))
    ]
    terms += [index(count + axis) * operands.size(stride) for axis, stride in offsets]
    extent, channels = known_shape(rows)
    narrow = isinstance(extent, int) and extent < 1 << 31  # half as many bytes to write and read
    place = cast(reduce(lambda x, y: x + y, terms), dtypes.int32 if narrow else dtypes.int64)
    places = b.emit("map", *operands.values, hint="rows", outputs=(place,), shape=full)
    given = [_spread(b, taps.weights, i, count) for i, taps in enumerate(axes) if taps.weights is not None]
    dtype = rows.type.dtype
    if not given or not dtype.is_float:
        assert added == 1, "what is added up has weights"
        picked = b.emit("take", rows, b.emit("reshape", places, b.sizes(left)), axis=0, hint=hint)
        if not given:
            return picked
    product = [cast(arg(i, w.type.dtype), wide(w.type.dtype)) for i, w in enumerate(given)]
    weight = reduce(lambda x, y: x * y, product)
    weight = weight * (1 / divisor) if divisor != 1 else weight
    weights = b.emit("map", *given, hint="weights", outputs=(weight,), shape=full)
    if not dtype.is_float:
        kept = b.emit("reshape", weights, b.sizes((*left, 1)))
        here = arg(0, dtype)
        read = apply("ne", arg(1, weight.dtype), const(0, weight.dtype))
        return b.emit("map", picked, kept, hint=hint, outputs=(select(read, here, const(0, dtype)),))
    positions = dims.product(left)
    table = b.emit("reshape", rows, b.sizes((1, extent, channels)))
    each = [b.emit("reshape", value, b.sizes((added, 1, positions))) for value in (places, weights)]
    found = b.emit("weighted_take", table, *each, hint=hint, fn=fn)
    return b.emit("reshape", found, b.sizes((*left, channels)))


def _spread(b: Builder, value: Value, axis: int, count: int) -> Value:
    """[taps, *space] with its taps on axis `axis` of `count`."""
    taps, *space = known_shape(value)
    lead = [taps if i == axis else 1 for i in range(count)]
    return b.emit("reshape", value, b.sizes((*lead, *space)))
