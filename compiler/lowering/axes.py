"""Index spaces: ordering, dropping and merging axes so that kernels see few, long, dense ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from compiler import views
from compiler.dims import Size
from compiler.expr import Expr, index, transform
from compiler.kernels import BROADCAST, GENERAL, UNIT, View


@dataclass(frozen=True)
class Space:
    """A collapsed index space: extents, each operand's strides, and where the original axes went (for `index`)."""

    extents: tuple[Size, ...]
    strides: tuple[tuple[Size, ...], ...]
    position: dict[int, int]

    def view(self, operand: int, source: View) -> View:
        """Operand number `operand` over this space."""
        return View(source.buffer, source.dtype, self.extents, self.strides[operand], source.offset)

    def inner_class(self, operand: int) -> str:
        """The operand's stride class on the last axis."""
        return stride_class(self.strides[operand][-1], self.extents[-1])


def stride_class(stride: Size, size: Size = 2) -> str:
    """How a stride looks to code that vectorises the axis."""
    if size == 1 or stride == 1:
        return UNIT if stride == 1 else BROADCAST
    return BROADCAST if stride == 0 else GENERAL


def collapse(operands: Sequence[View], order: Sequence[int], unmerged: Collection[int] = ()) -> Space:
    """The axes of `operands` (all of one shape) in `order`, extent-1 axes dropped and neighbours merged where every
    operand allows it. Axes in `unmerged` (those an expression asks the index of) stay by themselves."""
    shape = operands[0].shape
    groups: list[tuple[Size, list[Size], int | None]] = []  # extent, strides an operand, the axis if unmergeable
    position: dict[int, int] = {}
    for axis in order:
        size = shape[axis]
        strides: list[Size] = [view.strides[axis] for view in operands]
        fixed = axis in unmerged
        if size == 1 and not fixed:
            continue
        if groups and not fixed and groups[-1][2] is None:
            outer_size, outer_strides, _ = groups[-1]
            if all(views.mergeable(o, size, s) for o, s in zip(outer_strides, strides, strict=True)):
                groups[-1] = (outer_size * size, strides, None)
                continue
        if fixed:
            position[axis] = len(groups)
        groups.append((size, strides, axis if fixed else None))
    if not groups:
        groups.append((1, [1] * len(operands), None))
    return Space(
        tuple(size for size, _, _ in groups),
        tuple(tuple(strides[i] for _, strides, _ in groups) for i in range(len(operands))),
        position,
    )


def indexed_axes(exprs: Sequence[Expr]) -> set[int]:
    """The axes whose position some expression reads."""
    from compiler.expr import walk

    return {node.value for node in walk(tuple(exprs)) if node.op == "index"}


def move_indexes(root: Expr, position: dict[int, int]) -> Expr:
    """`root` with index(axis) renamed to the axis' place in a collapsed space."""
    return transform(root, lambda n: index(position[n.value]) if n.op == "index" else None)
