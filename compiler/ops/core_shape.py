"""Core ops that are strided views: they move no data, or one copy where strides cannot express them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dims, dtypes, views
from compiler.dims import Size
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
            rank = length[0] if length is not None else None
            return [TensorType(x.dtype, tuple(call.fresh() for _ in range(rank)) if isinstance(rank, int) else None)]
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
            return [TensorType(x.dtype, tuple(call.fresh() for _ in range(rank)) if known else None)]  # type: ignore[arg-type]
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
