"""LSTM, GRU and RNN: one matmul for the inputs of all steps, then a matmul and a map a step.

Operands: x [T, B, I], W [D, gates * H, I], R [D, gates * H, H], bias [D, 2 * gates * H], lengths [B], initial h and c
[D, B, H], peepholes [D, 3 * H]. Outputs: all h [T, D, B, H], the last h (and c) [D, B, H]. With layout 1 the batch
comes first everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import apply, arg, cast, const, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, operand
from compiler.ops.onnx_types import without
from compiler.ops.recurrent_cells import GRU, LSTM, RNN, Cell, Settings, settings
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType

UNROLLED_STEPS = 256  # each step is several nodes: longer sequences would cost more to compile than to run
_COMMON = {
    "activation_alpha": None,
    "activation_beta": None,
    "activations": None,
    "clip": None,
    "direction": "forward",
    "hidden_size": None,
    "layout": 0,
}


def _directions(attrs: Mapping[str, Any]) -> tuple[bool, ...]:
    """For each direction, whether it runs backward."""
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[attrs["direction"]]


def _infer(cell: Cell, call: Call) -> list[TensorType]:
    x, w, r = (call.tensor(i) for i in range(3))
    dtype = call.same_dtype(0, 1, 2)
    check_kind(call, dtype, FLOAT)
    if x.shape is None or r.shape is None:
        return [TensorType(dtype, None)] * call.outputs
    if len(x.shape) != 3 or len(r.shape) != 3:
        call.shape_error(f"x is {x}, R is {r}; expected rank 3 for both")
    hidden, count = r.shape[2], len(_directions(call.attrs))
    call.same_size(r.shape[0], count, "number of directions (of R, of the attribute)")
    call.same_size(r.shape[1], hidden * cell.gates, f"rows of R ({cell.gates} gates of {hidden})")
    if w.shape is not None:
        call.same_size(w.shape[2], x.shape[2], "input size (columns of W, last axis of x)")
    steps, batch, _ = x.shape if not call.attrs["layout"] else (x.shape[1], x.shape[0], 0)
    if call.attrs["layout"]:
        shapes: list[tuple[Size, ...]] = [(batch, steps, count, hidden), *[(batch, count, hidden)] * cell.states]
    else:
        shapes = [(steps, count, batch, hidden), *[(count, batch, hidden)] * cell.states]
    return [TensorType(dtype, shape) for shape in shapes][: call.outputs]


def _reference(cell: Cell, operands: Sequence[np.ndarray | None], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w, r, bias, lengths, *rest = (*operands, *(None,) * (8 - len(operands)))
    initial, peepholes = rest[: cell.states], rest[cell.states]
    dtype, first = x.dtype, attrs["layout"]
    exact = [None if a is None else a.astype(np.float64) for a in (x, w, r, bias, peepholes)]
    x, w, r, bias, peepholes = exact
    x = x.swapaxes(0, 1) if first else x
    steps, batch = x.shape[:2]
    bias = np.zeros((w.shape[0], 2 * w.shape[1])) if bias is None else bias
    live = np.full(batch, steps) if lengths is None else lengths
    everything, last = [], []
    for d, backward in enumerate(_directions(attrs)):
        state = [
            np.zeros((batch, r.shape[2])) if a is None else (a[:, d] if first else a[d]).astype(np.float64)
            for a in initial
        ]
        s = settings(attrs, cell.functions, d, len(w))
        wb, rb = np.split(bias[d], 2)
        outputs = np.zeros((steps, batch, r.shape[2]))
        for t in reversed(range(steps)) if backward else range(steps):
            new = cell.array(x[t] @ w[d].T + wb, state, r[d].T, rb, None if peepholes is None else peepholes[d], s)
            going = (t < live)[:, None]
            state = [np.where(going, fresh, old) for fresh, old in zip(new, state, strict=True)]
            outputs[t] = np.where(going, new[0], 0)
        everything.append(outputs)
        last.append(state)
    stacked = [np.stack(everything, axis=1), *(np.stack(parts) for parts in zip(*last, strict=True))]
    if first:
        stacked = [stacked[0].transpose(2, 0, 1, 3), *(a.swapaxes(0, 1) for a in stacked[1:])]
    return tuple(round_to(a, dtype) for a in stacked)


class _Layer:
    """One layer being unrolled into core ops."""

    def __init__(self, b: Builder, cell: Cell, node: Node) -> None:
        self.b, self.cell, self.attrs = b, cell, node.attrs
        x, self.w, self.r, self.bias, self.lengths, *rest = (*node.inputs, *(None,) * (8 - len(node.inputs)))
        self.initial, self.peepholes = rest[: cell.states], rest[cell.states]
        self.x = b.emit("transpose", x, perm=(1, 0, 2)) if node.attrs["layout"] else x
        self.steps: Any
        self.hidden: Any
        self.steps, self.batch, self.features = known_shape(self.x)
        self.hidden = known_shape(self.r)[2]

    def direction(self, d: int, backward: bool) -> tuple[Value, list[Value]]:
        """All outputs [T, 1, B, H] and the last states [B, H] of one direction."""
        b, s = self.b, settings(self.attrs, self.cell.functions, d, len(_directions(self.attrs)))
        x, r_turned = self._input_part(d, s), b.emit("transpose", self._pick(self.r, d), perm=(1, 0))
        recurrent_bias, peepholes = self._recurrent_bias(d, s), self._pick(self.peepholes, d)
        states = [self._initial(value, d) for value in self.initial]
        outputs: dict[int, Value] = {}
        for t in reversed(range(self.steps)) if backward else range(self.steps):
            new = self.cell.values(b, self._row(x, t), states, r_turned, recurrent_bias, peepholes, s)
            outputs[t], states = self._masked(t, new, states)
        shape = b.sizes((1, 1, self.batch, self.hidden))
        return b.emit("concat", *(b.emit("reshape", outputs[t], shape) for t in range(self.steps)), axis=0), states

    def _pick(self, value: Value | None, d: int) -> Any:
        """value[d]."""
        if value is None:
            return None
        shape = known_shape(value)
        starts, steps = (d, *[0] * (len(shape) - 1)), (1,) * len(shape)
        part = self.b.emit("slice", value, starts=starts, sizes=(1, *shape[1:]), steps=steps)
        return self.b.emit("reshape", part, self.b.sizes(shape[1:]))

    def _row(self, x: Value, t: int) -> Value:
        return self._pick(x, t)

    def _initial(self, value: Value | None, d: int) -> Value:
        if value is None:
            zero = self.b.constant(0, dtype=self.x.type.dtype)
            return self.b.emit("expand", zero, self.b.sizes((self.batch, self.hidden)))
        return self._pick(self.b.emit("transpose", value, perm=(1, 0, 2)) if self.attrs["layout"] else value, d)

    def _halves(self, d: int) -> list[Value]:
        """The input and the recurrent bias [gates * H]."""
        bias, size = self._pick(self.bias, d), self.cell.gates * self.hidden
        return [self.b.emit("slice", bias, starts=(i * size,), sizes=(size,), steps=(1,)) for i in (0, 1)]

    def _separate(self, s: Settings) -> bool:
        """Whether part of the recurrent bias is scaled by the reset gate, so cannot join the input's."""
        return bool(s.attrs.get("linear_before_reset"))

    def _recurrent_bias(self, d: int, s: Settings) -> Value | None:
        return self._halves(d)[1] if self.bias is not None and self._separate(s) else None

    def _input_part(self, d: int, s: Settings) -> Value:
        """x W^T plus bias of every step: [T, B, gates * H]."""
        b = self.b
        rows = b.emit("reshape", self.x, b.sizes((self.steps * self.batch, self.features)))
        product = b.emit("matmul", rows, b.emit("transpose", self._pick(self.w, d), perm=(1, 0)))
        if self.bias is not None:
            wb, rb = self._halves(d)
            if self._separate(s):
                zeros = b.emit("expand", b.constant(0, dtype=rb.type.dtype), b.sizes((self.hidden,)))
                joined = b.emit("slice", rb, starts=(0,), sizes=(2 * self.hidden,), steps=(1,))
                rb = b.emit("concat", joined, zeros, axis=0)
            total = operand(0, product) + operand(1, wb) + operand(2, rb)
            product = emit_map(b, cast(total, product.type.dtype), product, wb, rb, hint="input_part")
        return b.emit("reshape", product, b.sizes((self.steps, self.batch, self.cell.gates * self.hidden)))

    def _masked(self, t: int, new: Sequence[Value], old: Sequence[Value]) -> tuple[Value, list[Value]]:
        """The output and the states of step t: zero, and as they were, where a sequence has ended."""
        if self.lengths is None:
            return new[0], list(new)
        b, dtype = self.b, self.x.type.dtype
        column = b.emit("reshape", self.lengths, b.sizes((self.batch, 1)))
        going = apply("gt", arg(0, column.type.dtype), const(t, column.type.dtype))
        states = [
            emit_map(b, select(going, arg(1, dtype), arg(2, dtype)), column, fresh, before, hint="state")
            for fresh, before in zip(new, old, strict=True)
        ]
        return emit_map(b, select(going, arg(1, dtype), const(0, dtype)), column, new[0], hint="output"), states


def _decompose(cell: Cell, b: Builder, node: Node) -> tuple[Value, ...] | None:
    x, layout = node.inputs[0], node.attrs["layout"]
    steps = known_shape(x)[1 if layout else 0]
    if not isinstance(steps, int) or not 0 < steps <= UNROLLED_STEPS or not isinstance(node.output.type.shape[-1], int):
        return None
    layer = _Layer(b, cell, node)
    parts = [layer.direction(d, backward) for d, backward in enumerate(_directions(node.attrs))]
    everything = b.emit("concat", *(outputs for outputs, _ in parts), axis=1)
    shape = b.sizes((1, layer.batch, layer.hidden))
    last = [
        b.emit("concat", *(b.emit("reshape", state, shape) for state in states), axis=0)
        for states in zip(*(states for _, states in parts), strict=True)
    ]
    if layout:
        everything = b.emit("transpose", everything, perm=(2, 0, 1, 3))
        last = [b.emit("transpose", value, perm=(1, 0, 2)) for value in last]
    return (everything, *last)[: len(node.outputs)]


def _samples(cell: Cell, own: Mapping[str, Any], rng: np.random.Generator) -> Iterator[Sample]:
    steps, batch, features, hidden = 4, 3, 5, 2

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32)

    def layer(count: int) -> list[np.ndarray]:
        rows = cell.gates * hidden
        return [
            draw(steps, batch, features),
            draw(count, rows, features),
            draw(count, rows, hidden),
            draw(count, 2 * rows),
        ]

    yield Sample(tuple(layer(1)[:3]), tolerance=32, name="plain")
    yield Sample(tuple(layer(1)), {**own, "direction": "reverse", "clip": 0.5}, 32, "reverse clipped")
    states = [draw(2, batch, hidden) for _ in range(cell.states)]
    lengths = np.array([4, 1, 2], np.int32)
    yield Sample((*layer(2), lengths, *states), {"direction": "bidirectional"}, 32, "lengths")
    x, *weights = layer(1)
    first = [draw(batch, 1, hidden) for _ in range(cell.states)]
    yield Sample((x.swapaxes(0, 1).copy(), *weights, None, *first), {**own, "layout": 1}, 32, "batch first")
    names = ("HardSigmoid", "Softsign", "LeakyRelu")[: len(cell.functions)]
    numbers = {"activation_alpha": (0.3, 0.1), "activation_beta": (0.4,)}
    yield Sample(tuple(layer(1)), {"activations": names, **numbers}, 32, "functions")
    if cell is LSTM:
        yield Sample((*layer(1), None, *(s[:1] for s in states), draw(1, 3 * hidden)), {}, 32, "peepholes")
    wide = tuple(a.astype(np.float64) for a in layer(1))
    yield Sample(wide, tolerance=64, name="float64")


def _declare(name: str, onnx: str, cell: Cell, own: Mapping[str, Any]) -> None:
    attrs = {**_COMMON, **dict.fromkeys(own, 0)}

    @op(
        name,
        onnx=OnnxRow(onnx, attrs, upgrades=((7, without("output_sequence")),)),
        attrs=attrs,
        host_reason=f"the number of steps is not fixed, or above {UNROLLED_STEPS}",
    )
    class Recurrent:
        """A recurrent layer over a sequence, in one direction or both."""

        def infer(call: Call) -> list[TensorType]:
            return _infer(cell, call)

        def reference(*operands: np.ndarray | None, **attrs: Any) -> tuple[np.ndarray, ...]:
            return _reference(cell, operands, attrs)

        def decompose(b: Builder, node: Node) -> tuple[Value, ...] | None:
            return _decompose(cell, b, node)

        def samples(rng: np.random.Generator) -> Iterator[Sample]:
            return _samples(cell, own, rng)


_declare("lstm", "LSTM", LSTM, {"input_forget": 1})
_declare("gru", "GRU", GRU, {"linear_before_reset": 1})
_declare("rnn", "RNN", RNN, {})
