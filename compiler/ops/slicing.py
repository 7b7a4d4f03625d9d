"""ONNX Slice and Split: operands whose contents are known become attributes of core slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Size, Undecided
from compiler.errors import ShapeError
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.extents import at_most, larger, smaller
from compiler.ops.onnx_types import attribute_to_input
from compiler.ops.shape import known_shape, listed
from compiler.types import TensorType

_UNBOUNDED = 2**31 - 1  # exporters write INT32_MAX or INT64_MAX for "to the end"
Box = tuple[tuple[Size, ...], tuple[Size, ...], tuple[int, ...]]


def slice_axis(start: Size, end: Size, step: int, extent: Size) -> tuple[Size, Size]:
    """First position and length of Python's `start:end:step` on an axis of `extent`, sizes allowed everywhere.

    Raises Undecided where the sign of a symbolic bound is unknown. A start past the end is left as it is: the
    length is 0 then.
    """
    if isinstance(start, int) and isinstance(end, int) and isinstance(extent, int):
        positions = range(extent)[start:end:step]
        return positions.start, len(positions)
    first: Size
    last: Size
    if step > 0:
        if isinstance(start, int) and start < 0 and _is_unbounded(end, extent):
            length = smaller(-start, extent)
            return larger(extent + start, 0), dims.ceil_div(length, step)
        first = start if start >= 0 else larger(extent + start, 0)
        last = extent if _is_unbounded(end, extent) else _bounded(end, extent)
        return first, dims.ceil_div(larger(last - first, 0), step)
    first = extent - 1 if _is_unbounded(start, extent) else _bounded(start, extent - 1, extent)
    last = -1 if isinstance(end, int) and end < -_UNBOUNDED else _bounded(end, extent - 1, extent)
    return first, dims.ceil_div(larger(first - last, 0), -step)


def _is_unbounded(end: Size, extent: Size) -> bool:
    return (isinstance(end, int) and end >= _UNBOUNDED) or at_most(extent, end)


def _bounded(position: Size, limit: Size, extent: Size | None = None) -> Size:
    """A position counted from the front and held within 0..limit (-1..limit for a backward slice)."""
    backward = extent is not None
    whole = limit if extent is None else extent
    return smaller(position, limit) if position >= 0 else larger(whole + position, -1 if backward else 0)


def resolve_slice(shape: Sequence[Size], contents: Sequence[np.ndarray | None], optional: Sequence[bool]) -> Box | None:
    """Core slice attributes from the contents of starts, ends, axes, steps; None where they do not decide.

    optional[i]: operand i is absent (so its default holds), not unknown.
    """
    if any(c is None and not absent for c, absent in zip(contents, optional, strict=True)):
        return None
    starts, ends = listed(contents[0]), listed(contents[1])  # type: ignore[arg-type]
    axes = list(range(len(starts))) if contents[2] is None else [int(a) for a in listed(contents[2])]  # type: ignore[arg-type]
    steps = [1] * len(starts) if contents[3] is None else [int(s) for s in listed(contents[3])]  # type: ignore[arg-type]
    first: list[Size] = [0] * len(shape)
    sizes, strides = list(shape), [1] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -len(shape) <= axis < len(shape):
            raise ShapeError(f"axis {axis} is outside a tensor of rank {len(shape)}; check axes")
        try:
            first[axis], sizes[axis] = slice_axis(start, end, step, shape[axis])
        except Undecided:
            return None
        strides[axis] = step
    return tuple(first), tuple(sizes), tuple(strides)


def _upgrade_slice(b: Builder, node: Any) -> Any:
    for position, name in enumerate(("starts", "ends", "axes"), start=1):
        node = attribute_to_input(name, position)(b, node)
    return node


@op(
    "onnx_slice",
    onnx=OnnxRow("Slice", upgrades=((10, _upgrade_slice),)),
    value_operands=(1, 2, 3, 4),
    tracks_values=True,
    host_reason="the bounds are computed in the graph",
)
class OnnxSlice:
    """x[start:end:step] on some axes: operands x, starts, ends, axes, steps; bounds as Python's."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        if x.shape is None:
            return [x]
        box = resolve_slice(
            x.shape, [call.value(i) for i in range(1, 5)], [call.optional(i) is None for i in range(1, 5)]
        )
        if box is not None:
            return [TensorType(x.dtype, box[1])]
        axes = call.value(3)
        cut = set(range(len(x.shape))) if axes is None else {call.axis(int(a), len(x.shape)) for a in axes}
        return [TensorType(x.dtype, tuple(call.fresh() if a in cut else size for a, size in enumerate(x.shape)))]

    def reference(
        x: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        axes: np.ndarray | None = None,
        steps: np.ndarray | None = None,
    ) -> np.ndarray:
        cut: list[Any] = [np.s_[:]] * x.ndim
        chosen = range(len(starts)) if axes is None else axes
        strides = np.ones(len(starts), np.int64) if steps is None else steps
        for start, end, axis, step in zip(starts, ends, chosen, strides, strict=True):
            cut[int(axis)] = slice(int(start), int(end), int(step))
        return x[tuple(cut)]

    def decompose(b: Builder, node: Node) -> Value | None:
        operands = [*node.inputs, *(None,) * (5 - len(node.inputs))]
        shape = node.inputs[0].type.shape
        box = shape is not None and resolve_slice(
            shape, [b.contents(v) for v in operands[1:]], [v is None for v in operands[1:]]
        )
        if not box:
            return None
        return b.emit("slice", node.inputs[0], starts=box[0], sizes=box[1], steps=box[2])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((7, 5)).astype(np.float32)
        big, least = 2**63 - 1, -(2**63)
        for starts, ends, axes, steps in (
            ((1, 0), (5, 3), None, None),
            ((0,), (big,), (1,), (2,)),
            ((-1,), (least,), (0,), (-1,)),
            ((-3,), (big,), (-1,), (1,)),
            ((1, 4), (-1, -100), (0, 1), (3, -2)),
            ((5,), (2,), (0,), (1,)),
            ((20,), (0,), (0,), (-3,)),
        ):
            arrays = (None if v is None else np.array(v) for v in (starts, ends, axes, steps))
            yield Sample((x, *arrays), name=f"{starts} to {ends}")


def split_sizes(extent: Size, sizes: np.ndarray | None, parts: int) -> tuple[Size, ...]:
    """The extents of the parts: as given, or equal ones with a smaller last one."""
    if sizes is not None:
        return tuple(listed(sizes))
    chunk = dims.ceil_div(extent, parts)
    if isinstance(extent, int):
        return tuple(max(0, min(chunk, extent - i * chunk)) for i in range(parts))  # type: ignore[type-var]
    exact = dims.divide_exactly(extent, parts)
    if exact is not None:
        return (exact,) * parts
    return (*(chunk,) * (parts - 1), extent - chunk * (parts - 1))


def _build_split(b: Builder, node: Any) -> tuple[Value, ...]:
    attrs = {"axis": node.attr("axis", 0), "num_outputs": len(node.outputs)}
    return b.emit_many("split", node.inputs, attrs, node.outputs)


@op(
    "split",
    onnx=OnnxRow("Split", build=_build_split, upgrades=((13, attribute_to_input("split", 1)),)),
    attrs={"axis": 0, "num_outputs": 2},
    value_operands=(1,),
    tracks_values=True,
    host_reason="the sizes of the parts are computed in the graph",
)
class Split:
    """x cut along an axis: into parts of the sizes in operand 1, or `num_outputs` equal ones, the last smaller."""

    def infer(call: Call) -> list[TensorType]:
        x, parts = call.tensor(0), call.attrs["num_outputs"]
        if x.shape is None:
            return [x] * parts
        axis = call.axis(call.attrs["axis"], len(x.shape))
        if call.optional(1) is not None and call.value(1) is None:
            sizes: tuple[Size, ...] = tuple(call.fresh() for _ in range(parts))
        else:
            sizes = split_sizes(x.shape[axis], call.value(1), parts)
        if len(sizes) != parts:
            call.shape_error(f"{len(sizes)} sizes for {parts} outputs; give one size an output")
        if call.value(1) is not None:
            call.same_size(x.shape[axis], sum(sizes), f"axis {axis} (of x, of the parts together)")
        return [TensorType(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes]

    def reference(
        x: np.ndarray, sizes: np.ndarray | None = None, *, axis: int, num_outputs: int
    ) -> tuple[np.ndarray, ...]:
        parts: Any = split_sizes(x.shape[axis], sizes, num_outputs)
        return tuple(np.split(x, np.cumsum(parts)[:-1], axis=axis))

    def decompose(b: Builder, node: Node) -> tuple[Value | None, ...] | None:
        x = node.inputs[0]
        if x.type.shape is None or (len(node.inputs) > 1 and b.contents(node.inputs[1]) is None):
            return None
        axis, start = node.attrs["axis"] % len(x.type.shape), 0
        parts: list[Value | None] = []
        for value in node.outputs:
            sizes = known_shape(value)
            starts = tuple(start if a == axis else 0 for a in range(len(sizes)))
            steps = (1,) * len(sizes)
            parts.append(b.emit("slice", x, starts=starts, sizes=sizes, steps=steps) if value.name else None)
            start = start + sizes[axis]  # type: ignore[operator]
        return tuple(parts)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 7)).astype(np.float32)
        yield Sample((x,), {"axis": 1, "num_outputs": 3}, name="equal")
        yield Sample((x, np.array([3, 0, 4])), {"axis": -1, "num_outputs": 3}, name="sizes")
