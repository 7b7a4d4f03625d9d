"""Core ops that only rearrange: most become strided views, the rest one copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dims, dtypes, views
from compiler.dims import Size
from compiler.expr import arg, const
from compiler.ir import Node
from compiler.op import REQUIRED, Call, Sample, op
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("sizes", attrs={"sizes": REQUIRED}, tracks_values=True)
class Sizes:
    """An int64 vector of sizes, known when a plan is made."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(dtypes.int64, (len(call.attrs["sizes"]),))]

    def reference(*, sizes: Sequence[Size]) -> np.ndarray:
        return np.array(sizes, dtype=np.int64 if dims.is_static(sizes) else object)

    def lower(node: Node, low: Lowering) -> None:
        low.sizes(node.output, node.attrs["sizes"])


@op("shape_of", tracks_values=True)
class ShapeOf:
    """The shape of a tensor as an int64 vector; always known from types, so it never runs."""

    def infer(call: Call) -> list[TensorType]:
        shape = call.tensor(0).shape
        return [TensorType(dtypes.int64, (len(shape),) if shape is not None else (call.fresh(),))]

    def reference(x: Any) -> np.ndarray:
        return np.array(x.shape, dtype=np.int64 if dims.is_static(x.shape) else object)

    def lower(node: Node, low: Lowering) -> None:
        low.sizes(node.output, node.inputs[0].type.shape)


@op("reshape", value_operands=(1,), tracks_values=True)
class Reshape:
    """x under another shape of as many elements; one -1 is computed."""

    def infer(call: Call) -> list[TensorType]:
        x, shape = call.tensor(0), call.value(1)
        if shape is None:
            length = call.tensor(1).shape
            known = length is not None and isinstance(length[0], int)
            return [TensorType(x.dtype, tuple(call.fresh() for _ in range(length[0])) if known else None)]
        return [TensorType(x.dtype, resolve_reshape(call, x.shape, list(shape)))]

    def reference(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        return np.reshape(x, [int(size) for size in shape])

    def lower(node: Node, low: Lowering) -> None:
        low.alias(node.output, low.reshaped(low.view(node.inputs[0]), node.output.type.shape))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 4)).astype(np.float32)
        yield Sample((x, np.array([4, 6])))
        yield Sample((x, np.array([-1, 2])))


def resolve_reshape(call: Call, old: Sequence[Size] | None, new: list[Any]) -> tuple[Size, ...]:
    """The new shape with its -1 computed. Raises ShapeError when the element counts differ."""
    sizes = [size if isinstance(size, dims.Dim) else int(size) for size in new]
    unknown = [i for i, size in enumerate(sizes) if size == -1]
    if len(unknown) > 1:
        call.shape_error(f"shape {sizes} has more than one -1")
    if old is None:
        return tuple(call.fresh() if size == -1 else size for size in sizes)
    total = dims.product(old)
    if unknown:
        rest = dims.product(size for size in sizes if size != -1)
        if isinstance(rest, int) and (rest == 0 or (isinstance(total, int) and total % rest)):
            call.shape_error(f"{list(old)} cannot be reshaped to {sizes}: {total} elements over {rest}")
        sizes[unknown[0]] = total // rest
    elif total != dims.product(sizes):
        call.same_size(total, dims.product(sizes), f"number of elements ({list(old)} to {sizes})")
    return tuple(sizes)


@op("transpose", attrs={"perm": REQUIRED}, tracks_values=True)
class Transpose:
    """Axes permuted: result axis i is axis perm[i] of x."""

    def infer(call: Call) -> list[TensorType]:
        x, perm = call.tensor(0), call.attrs["perm"]
        if x.shape is None:
            return [x]
        if sorted(perm) != list(range(len(x.shape))):
            call.shape_error(f"perm {tuple(perm)} is no permutation of the {len(x.shape)} axes of {x}")
        return [TensorType(x.dtype, tuple(x.shape[p] for p in perm))]

    def reference(x: np.ndarray, *, perm: Sequence[int]) -> np.ndarray:
        return np.transpose(x, perm)

    def lower(node: Node, low: Lowering) -> None:
        low.alias(node.output, views.transpose(low.view(node.inputs[0]), node.attrs["perm"]))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.standard_normal((2, 3, 5)).astype(np.float32),), {"perm": (2, 0, 1)})


@op("expand", value_operands=(1,), tracks_values=True)
class Expand:
    """x broadcast with a shape (two-way, as NumPy broadcasts)."""

    def infer(call: Call) -> list[TensorType]:
        x, shape = call.tensor(0), call.value(1)
        if shape is None or x.shape is None:
            length = call.tensor(1).shape
            known = length is not None and isinstance(length[0], int) and x.shape is not None
            rank = max(length[0], len(x.shape)) if known else 0
            return [TensorType(x.dtype, tuple(call.fresh() for _ in range(rank)) if known else None)]
        wanted = [size if isinstance(size, dims.Dim) else int(size) for size in shape]
        return [TensorType(x.dtype, call.broadcast(x.shape, wanted))]

    def reference(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        wanted = np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))
        return np.broadcast_to(x, wanted)

    def lower(node: Node, low: Lowering) -> None:
        low.alias(node.output, views.broadcast(low.view(node.inputs[0]), node.output.type.shape))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.standard_normal((3, 1)).astype(np.float32), np.array([2, 1, 4])))


@op("slice", attrs={"starts": REQUIRED, "sizes": REQUIRED, "steps": REQUIRED}, tracks_values=True)
class Slice:
    """A strided box of x: along axis i, sizes[i] elements from starts[i] in steps[i]."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        starts, sizes, steps = (call.attrs[key] for key in ("starts", "sizes", "steps"))
        if x.shape is None or not len(starts) == len(sizes) == len(steps) == len(x.shape):
            call.shape_error(f"starts, sizes, steps {starts}, {sizes}, {steps} do not fit {x}")
        for axis, (start, size, step, extent) in enumerate(zip(starts, sizes, steps, x.shape, strict=True)):
            numbers = all(isinstance(n, int) for n in (start, size, step, extent))
            if numbers and size and not (0 <= start < extent and 0 <= start + (size - 1) * step < extent):
                call.shape_error(f"axis {axis}: {size} elements from {start} in steps of {step} leave 0..{extent - 1}")
        return [TensorType(x.dtype, tuple(sizes))]

    def reference(x: np.ndarray, *, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> np.ndarray:
        for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
            x = np.take(x, start + step * np.arange(size), axis=axis)
        return x

    def lower(node: Node, low: Lowering) -> None:
        attrs = node.attrs
        source = low.view(node.inputs[0])
        low.alias(node.output, views.slice(source, attrs["starts"], attrs["sizes"], attrs["steps"]))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((5, 7)).astype(np.float32)
        yield Sample((x,), {"starts": (4, 1), "sizes": (3, 2), "steps": (-2, 3)})


@op("concat", attrs={"axis": REQUIRED}, tracks_values=True)
class Concat:
    """Tensors joined along an axis."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(*range(len(call.inputs)))
        shapes = [call.tensor(i).shape for i in range(len(call.inputs))]
        first = next((shape for shape in shapes if shape is not None), None)
        if first is None or any(shape is None for shape in shapes):
            return [TensorType(dtype, None if first is None else tuple(call.fresh() for _ in first))]
        axis = call.axis(call.attrs["axis"], len(first))
        result = list(first)
        for i, shape in enumerate(shapes[1:], start=1):
            if len(shape) != len(first):
                call.shape_error(f"operand {i} has rank {len(shape)}, operand 0 has {len(first)}")
            for a, size in enumerate(shape):
                same = None if a == axis else call.same_size(result[a], size, f"axis {a} of operand {i}")
                result[a] = result[a] + size if same is None else same
        return [TensorType(dtype, tuple(result))]

    def reference(*arrays: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis=axis)

    def lower(node: Node, low: Lowering) -> None:
        out = low.allocate(node.output)
        axis = node.attrs["axis"] % len(out.shape)
        start: Size = 0
        for value in node.inputs:
            low.copy(low.view(value), box(out, axis, start, value.type.shape[axis]))
            start = start + value.type.shape[axis]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        a, b = rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal((2, 1)).astype(np.float32)
        yield Sample((a, b), {"axis": -1})


def box(view: views.View, axis: int, start: Size, size: Size) -> views.View:
    """The part of `view` from `start`, `size` long, along one axis."""
    rank = len(view.shape)
    starts, sizes = [0] * rank, list(view.shape)
    starts[axis], sizes[axis] = start, size  # type: ignore[call-overload]
    return views.slice(view, starts, sizes, [1] * rank)


@op("pad", attrs={"before": REQUIRED, "after": REQUIRED, "mode": "constant"})
class Pad:
    """x with elements added (or, negative, removed) on both sides of each axis.

    mode: constant (operand 1, a scalar, or zero), edge, reflect, wrap.
    """

    def infer(call: Call) -> list[TensorType]:
        x, before, after = call.tensor(0), call.attrs["before"], call.attrs["after"]
        if x.shape is None or not len(before) == len(after) == len(x.shape):
            call.shape_error(f"before {before} and after {after} do not fit {x}")
        shape = tuple(size + b + a for size, b, a in zip(x.shape, before, after, strict=True))
        return [TensorType(x.dtype, shape)]

    def reference(
        x: np.ndarray, fill: np.ndarray | None = None, *, before: Sequence[int], after: Sequence[int], mode: str
    ) -> np.ndarray:
        cropped = x[tuple(np.s_[max(-b, 0) : n - max(-a, 0)] for b, a, n in zip(before, after, x.shape, strict=True))]
        widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
        if mode == "constant":
            value = np.zeros((), x.dtype) if fill is None else np.asarray(fill, x.dtype).reshape(())
            return np.pad(cropped, widths, constant_values=value)
        return np.pad(cropped, widths, mode=mode)  # type: ignore[call-overload]

    def decompose(b: Any, node: Node) -> Any:
        if node.attrs["mode"] == "constant":
            return None
        x = node.inputs[0]
        sides = zip(node.attrs["before"], node.attrs["after"], x.type.shape, strict=True)
        for axis, (before, after, size) in enumerate(sides):
            if (before, after) == (0, 0):
                continue
            positions = padding_index(b, node, axis, size, before, after)
            x = b.emit("take", x, positions, axis=axis)
        return x

    def lower(node: Node, low: Lowering) -> None:
        x, out = low.view(node.inputs[0]), low.allocate(node.output)
        filled = node.inputs[1] if len(node.inputs) > 1 else None
        if filled is None:
            low.map((const(0, out.dtype),), [], [out])
        else:
            scalar = views.reshape(low.view(filled), ()) or low.view(filled)
            low.map((arg(0, out.dtype),), [views.broadcast(scalar, out.shape)], [out])
        inner_x, inner_out = x, out
        for axis, (before, after) in enumerate(zip(node.attrs["before"], node.attrs["after"], strict=True)):
            crop_before, crop_after = dims.maximum(0 - before, 0), dims.maximum(0 - after, 0)
            size = x.shape[axis] - crop_before - crop_after
            inner_x = box(inner_x, axis, crop_before, size)
            inner_out = box(inner_out, axis, dims.maximum(before, 0), size)
        low.copy(inner_x, inner_out)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((3, 4)).astype(np.float32)
        fill = np.array(2.5, np.float32)
        yield Sample((x, fill), {"before": (1, -1), "after": (0, 2), "mode": "constant"})
        for mode in ("edge", "reflect", "wrap"):
            yield Sample((x,), {"before": (1, 2), "after": (2, 0), "mode": mode}, name=mode)


def padding_index(b: Any, node: Node, axis: int, size: Size, before: Size, after: Size) -> Any:
    """The source positions of one padded axis. Sizes must be numbers (else ShapeError)."""
    if not dims.is_static((size, before, after)):
        from compiler.errors import ShapeError

        raise ShapeError(
            f"{node.place}: pad mode {node.attrs['mode']} needs a fixed size on axis {axis}, found {size}; fix that dim"
        )
    row = np.arange(size, dtype=np.int64)  # type: ignore[arg-type]
    padded = Pad.reference(row, before=(before,), after=(after,), mode=node.attrs["mode"])  # type: ignore[misc]
    return b.constant(padded, "pad_index")


@op("take", attrs={"axis": 0}, tracks_values=True)
class Take:
    """Slices of data picked along an axis by an index tensor of any rank; negative indices count from the end."""

    def infer(call: Call) -> list[TensorType]:
        data, index = call.tensor(0), call.tensor(1)
        if not index.dtype.is_integer:
            call.dtype_error(f"the index is {index.dtype}; expected int32 or int64")
        if data.shape is None or index.shape is None:
            return [TensorType(data.dtype, None)]
        axis = call.axis(call.attrs["axis"], len(data.shape))
        return [TensorType(data.dtype, data.shape[:axis] + index.shape + data.shape[axis + 1 :])]

    def reference(data: np.ndarray, index: np.ndarray, *, axis: int) -> np.ndarray:
        return np.take(data, np.asarray(index, np.int64), axis=axis)

    def lower(node: Node, low: Lowering) -> None:
        low.take(node.inputs[0], node.inputs[1], node.attrs["axis"] % node.inputs[0].type.rank, node.output)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data = rng.standard_normal((4, 5, 3)).astype(np.float32)
        yield Sample((data, np.array([[0, -1], [2, 4]])), {"axis": 1})
        yield Sample((data, np.array(2, np.int32)), {"axis": 0}, name="scalar")
