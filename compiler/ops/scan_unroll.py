"""A Scan of few steps written out: its body once a step, so that nothing is called from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.builder import Builder
from compiler.frontends.onnx_node import Subgraph
from compiler.ir import Value
from compiler.types import TensorType

_MOST_NODES = 1024  # of all the bodies; a longer program would take longer to compile than it saves


@dataclass(frozen=True)
class Scanning:
    """How a Scan reads and writes: the axis of each sequence and of each stack of rows, and which go backward."""

    states: int
    input_axes: tuple[int, ...]
    inputs_backward: tuple[bool, ...]
    output_axes: tuple[int, ...]
    outputs_backward: tuple[bool, ...]
    batched: bool


def unrolled(b: Builder, body: Subgraph, scan: Scanning, operands: Sequence[Value]) -> list[Value] | None:
    """The outputs of a Scan over `operands` (states, sequences); None where its steps are too many, or not a number."""
    types = [value.type for value in operands]
    if not all(isinstance(type, TensorType) and type.shape is not None for type in types):
        return None
    first = operands[scan.states]
    axis = scan.input_axes[0] + (1 if scan.batched and scan.input_axes[0] >= 0 else 0)
    steps, rounds = first.type.shape[axis], first.type.shape[0] if scan.batched else 1
    if not isinstance(steps, int) or not isinstance(rounds, int) or steps < 1 or rounds < 1:
        return None
    if steps * rounds * max(body.nodes, 1) > _MOST_NODES:
        return None
    if not scan.batched:
        return _steps(b, body, scan, operands, steps)
    results = [_steps(b, body, scan, [_at(b, x, 0, i) for x in operands], steps) for i in range(rounds)]
    return [_stacked(b, column, 0) for column in zip(*results, strict=True)]


def _steps(b: Builder, body: Subgraph, scan: Scanning, operands: Sequence[Value], steps: int) -> list[Value]:
    state, sequences = list(operands[: scan.states]), operands[scan.states :]
    stacks: list[list[Value]] = [[] for _ in scan.output_axes]
    for step in range(steps):
        slices = [
            _at(b, x, axis, steps - 1 - step if backward else step)
            for x, axis, backward in zip(sequences, scan.input_axes, scan.inputs_backward, strict=True)
        ]
        results = body.inline([*state, *slices])
        state = list(results[: scan.states])
        for stack, row in zip(stacks, results[scan.states :], strict=True):
            stack.append(row)
    columns = zip(stacks, scan.output_axes, scan.outputs_backward, strict=True)
    return state + [_stacked(b, stack[::-1] if backward else stack, axis) for stack, axis, backward in columns]


def _at(b: Builder, x: Value, axis: int, place: int) -> Value:
    """x at one place of an axis, without that axis."""
    shape = x.type.shape
    axis %= len(shape)
    taken = b.emit(
        "slice",
        x,
        starts=tuple(place if a == axis else 0 for a in range(len(shape))),
        sizes=tuple(1 if a == axis else size for a, size in enumerate(shape)),
        steps=(1,) * len(shape),
    )
    return b.emit("reshape", taken, b.sizes([size for a, size in enumerate(shape) if a != axis]))


def _stacked(b: Builder, rows: Sequence[Value], axis: int) -> Value:
    """Tensors along a new axis."""
    widened = []
    for row in rows:
        shape = list(row.type.shape)
        shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
        widened.append(b.emit("reshape", row, b.sizes(shape)))
    return b.emit("concat", *widened, axis=axis) if len(widened) > 1 else widened[0]
