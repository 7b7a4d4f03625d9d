"""A recurrent layer in core ops: one product for the inputs of all steps and directions, then one recurrence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.ops.elementwise import emit_map, wide
from compiler.ops.recurrent_cells import Cell, Part, settings
from compiler.ops.shape import known_shape


def directions(attrs: Mapping[str, Any]) -> tuple[bool, ...]:
    """For each direction, whether it runs backward."""
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[attrs["direction"]]


class Layer:
    """One LSTM, GRU or RNN node being taken apart. Floats of 16 bits are widened after the inputs' product, and rounded
    at the end."""

    def __init__(self, b: Builder, cell: Cell, node: Node) -> None:
        self.b, self.cell, self.attrs = b, cell, node.attrs
        self.dtype: DType = node.inputs[0].type.dtype  # type: ignore[union-attr]
        self.lengths = node.inputs[4] if len(node.inputs) > 4 else None
        kept = (0, 1, 4)  # the inputs' product takes 16-bit floats as they are and sums them in float32
        operands = [v if i in kept or v is None else self._cast(v, wide(self.dtype)) for i, v in enumerate(node.inputs)]
        self.x, self.w, self.r, self.bias, _, *rest = (*operands, *[None] * (9 - len(operands)))
        self.initial, self.peepholes, self.projection = rest[: cell.states], rest[cell.states], rest[-1]
        self.batch_first = bool(node.attrs["layout"])

    def results(self) -> tuple[Value, ...]:
        """All h, and the last states, as the node gives them."""
        backward = directions(self.attrs)
        every = [self._parts(d, len(backward)) for d in range(len(backward))]
        if all(parts == every[0] for parts in every):
            results = self._run(range(len(backward)), every[0], backward)
        else:  # functions of their own: what differs is code
            runs = [self._run(range(d, d + 1), every[d], backward[d : d + 1]) for d in range(len(backward))]
            results = [
                self.b.emit("concat", *values, axis=1 if i == 0 else 0)
                for i, values in enumerate(zip(*runs, strict=True))
            ]
        if self.batch_first:
            results = [self.b.emit("transpose", v, perm=(2, 0, 1, 3) if i == 0 else (1, 0, 2))
                       for i, v in enumerate(results)]  # fmt: skip
        return tuple(self._cast(v, self.dtype) for v in results)

    def _parts(self, d: int, count: int) -> tuple[Part, ...]:
        parameters = 3 if self.peepholes is not None else int(self.bias is not None and self._scaled_bias)
        chosen = settings(self.attrs, self.cell.functions, d, count)
        return self.cell.parts(wide(self.dtype), parameters, chosen, self.projection is not None)

    @property
    def _scaled_bias(self) -> bool:
        """Whether part of the recurrent bias is scaled by the reset gate, so cannot join the input's."""
        return bool(self.attrs.get("linear_before_reset"))

    def _run(self, chosen: range, parts: Sequence[Part], backward: Sequence[bool]) -> list[Value]:
        """All h [T, D, B, H] and the last states [D, B, H] of some directions with the same parts."""
        b = self.b
        matrices = [self._matrix(part, chosen) for part in parts]
        initial = [self._initial(value, chosen) for value in self.initial]
        parameters: list[Value] = []
        if self.peepholes is not None:
            parameters = self._columns(self._pick(self.peepholes, chosen), 3, range(3))
        elif self.bias is not None and self._scaled_bias:
            parameters = [self._columns(self._pick(self.bias, chosen), 6, range(5, 6))[0]]
        operands = [self._input_part(chosen), self.lengths, *matrices, *initial, *parameters]
        states = self.cell.states
        attrs = {"phases": tuple(part.phase for part in parts), "states": states, "blocks": self.cell.gates,
                 "backward": tuple(backward)}  # fmt: skip
        return list(b.emit_many("recurrence", operands, attrs, ("steps", *["last"] * states)))

    def _cast(self, value: Value, dtype: DType) -> Value:
        held = value.type.dtype  # type: ignore[union-attr]
        return value if held == dtype else emit_map(self.b, cast(arg(0, held), dtype), value, hint="cast")

    def _pick(self, value: Value, chosen: range) -> Value:
        """The chosen directions along axis 0."""
        shape = known_shape(value)
        if len(chosen) == shape[0]:
            return value
        starts, steps = (chosen.start, *[0] * (len(shape) - 1)), (1,) * len(shape)
        return self.b.emit("slice", value, starts=starts, sizes=(len(chosen), *shape[1:]), steps=steps)

    def _columns(self, value: Value, blocks: int, chosen: range) -> list[Value]:
        """Some of the equal blocks of columns of a matrix."""
        rows, columns = known_shape(value)
        size = columns // blocks
        return [self.b.emit("slice", value, starts=(0, i * size), sizes=(rows, size), steps=(1, 1)) for i in chosen]

    def _matrix(self, part: Part, chosen: range) -> Value:
        """The matrix [D, K, gates, N] of a part."""
        b = self.b
        if part.gates is None:
            assert self.projection is not None
            picked, gates = self._pick(self.projection, chosen), range(1)
            count = 1
        else:
            picked, gates, count = self._pick(self.r, chosen), part.gates, self.cell.gates
        size, rows, depth = known_shape(picked)
        split = b.emit("reshape", picked, b.sizes((size, count, rows // count, depth)))
        if len(gates) < count:
            sizes = (size, len(gates), rows // count, depth)
            split = b.emit("slice", split, starts=(0, gates.start, 0, 0), sizes=sizes, steps=(1, 1, 1, 1))
        return b.emit("transpose", split, perm=(0, 3, 1, 2))

    def _initial(self, value: Value | None, chosen: range) -> Value | None:
        if value is None:
            return None
        return self._pick(self.b.emit("transpose", value, perm=(1, 0, 2)) if self.batch_first else value, chosen)

    def _input_part(self, chosen: range) -> Value:
        """x W^T plus bias of every step: [T, D, B, gates, H]. Rows stay in x's order, steps or batch first."""
        b, gates = self.b, self.cell.gates
        outer, inner, features = known_shape(self.x)
        weight = self._pick(self.w, chosen)
        count, rows, _ = known_shape(weight)
        columns: Size = count * rows
        weight = b.emit("reshape", weight, b.sizes((columns, features)))
        lines = b.emit("reshape", self.x, b.sizes((outer * inner, features)))
        summed = () if wide(self.dtype) == self.dtype else (arg(0, wide(self.dtype)),)
        product = b.emit("matmul", lines, b.emit("transpose", weight, perm=(1, 0)), epilogue=summed)
        if self.bias is not None:
            bias = b.emit("reshape", self._joined_bias(chosen), b.sizes((columns,)))
            dtype = wide(self.dtype)
            product = emit_map(b, arg(0, dtype) + arg(1, dtype), product, bias, hint="input_part")
        split = b.emit("reshape", product, b.sizes((outer, inner, count, gates, rows // gates)))
        return b.emit("transpose", split, perm=(1, 2, 0, 3, 4) if self.batch_first else (0, 2, 1, 3, 4))

    def _joined_bias(self, chosen: range) -> Value:
        """The biases [D, gates * H] that join x W^T."""
        b, dtype = self.b, wide(self.dtype)
        assert self.bias is not None
        ours, recurrent = self._columns(self._pick(self.bias, chosen), 2, range(2))
        if self._scaled_bias:
            count, columns = known_shape(recurrent)
            size = columns // self.cell.gates
            kept = b.emit("slice", recurrent, starts=(0, 0), sizes=(count, columns - size), steps=(1, 1))
            zeros = b.emit("expand", b.constant(0, dtype=dtype), b.sizes((count, size)))
            recurrent = b.emit("concat", kept, zeros, axis=1)
        return emit_map(b, arg(0, dtype) + arg(1, dtype), ours, recurrent, hint="bias")
