"""ATen recurrent layers, kept whole: each layer is ONNX's LSTM, GRU or RNN with its gates in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compiler.frontends.aten.base import AtenBuilder, aten, reshape, shape_of, slice_axis, transpose, unsupported
from compiler.ir import Value

# The order ONNX has the gates in, as positions in torch's order (lstm i f g o -> i o f c; gru r z n -> z r h).
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": None}


@aten("aten.lstm.input")
def _lstm(
    b: AtenBuilder, x: Value, states: Sequence[Value], weights: Sequence[Value], *settings: Any
) -> tuple[Value, ...]:
    return _layers(b, "lstm", x, states, weights, settings, {})


PACKED = (
    "aten._pack_padded_sequence.default", "aten.lstm.data", "aten.gru.data", "aten.rnn_tanh.data", "aten.rnn_relu.data",
)  # fmt: skip


@aten(*PACKED)
def _packed(b: AtenBuilder, *arguments: Any) -> Any:
    raise unsupported(b, "a PackedSequence; give the layer the padded tensor")


@aten("aten.gru.input")
def _gru(b: AtenBuilder, x: Value, state: Value, weights: Sequence[Value], *settings: Any) -> tuple[Value, ...]:
    return _layers(b, "gru", x, (state,), weights, settings, {"linear_before_reset": 1})


@aten("aten.rnn_tanh.input")
def _rnn_tanh(b: AtenBuilder, x: Value, state: Value, weights: Sequence[Value], *settings: Any) -> tuple[Value, ...]:
    return _layers(b, "rnn", x, (state,), weights, settings, {"activations": ("Tanh",)})


@aten("aten.rnn_relu.input")
def _rnn_relu(b: AtenBuilder, x: Value, state: Value, weights: Sequence[Value], *settings: Any) -> tuple[Value, ...]:
    return _layers(b, "rnn", x, (state,), weights, settings, {"activations": ("Relu",)})


@aten("aten.lstm_cell.default")
def _lstm_cell(b: AtenBuilder, x: Value, states: Sequence[Value], *weights: Value | None) -> tuple[Value, ...]:
    return _step(b, "lstm", x, states, weights, {})


@aten("aten.gru_cell.default")
def _gru_cell(b: AtenBuilder, x: Value, state: Value, *weights: Value | None) -> Value:
    return _step(b, "gru", x, (state,), weights, {"linear_before_reset": 1})[0]


@aten("aten.rnn_tanh_cell.default")
def _rnn_tanh_cell(b: AtenBuilder, x: Value, state: Value, *weights: Value | None) -> Value:
    return _step(b, "rnn", x, (state,), weights, {"activations": ("Tanh",)})[0]


@aten("aten.rnn_relu_cell.default")
def _rnn_relu_cell(b: AtenBuilder, x: Value, state: Value, *weights: Value | None) -> Value:
    return _step(b, "rnn", x, (state,), weights, {"activations": ("Relu",)})[0]


def _step(
    b: AtenBuilder, cell: str, x: Value, states: Sequence[Value], weights: Sequence[Value | None], attrs: dict[str, Any]
) -> tuple[Value, ...]:
    """The new states [batch, hidden] of a cell: a layer of one step."""
    given = [weight for weight in weights if weight is not None]
    settings = (len(given) == 4, 1, 0.0, False, False, False)
    held = [reshape(b, state, [1, *shape_of(state)]) for state in states]
    _, *finals = _layers(b, cell, reshape(b, x, [1, *shape_of(x)]), held, given, settings, attrs)
    return tuple(reshape(b, final, shape_of(state)) for final, state in zip(finals, states, strict=True))


def _layers(
    b: AtenBuilder,
    cell: str,
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    settings: Sequence[Any],
    attrs: dict[str, Any],
) -> tuple[Value, ...]:
    """Layers in order, each feeding the next. settings: has_biases, layers, dropout, training, bidirectional,
    batch_first, as ATen lists them."""
    has_biases, layers, _, training, bidirectional, batch_first = settings
    if training:
        raise unsupported(b, f"aten.{cell} in training mode; export the model in eval mode")
    directions = 2 if bidirectional else 1
    projects = cell == "lstm" and shape_of(states[0])[2] != shape_of(states[1])[2]
    per_direction = (4 if has_biases else 2) + projects
    finals: list[list[Value]] = [[] for _ in states]
    for layer in range(layers):
        start = layer * directions * per_direction
        groups = [weights[start + d * per_direction :][:per_direction] for d in range(directions)]
        initial = [slice_axis(b, state, 0, layer * directions, directions) for state in states]
        x, last = _Layer(b, cell, bool(has_biases), bool(batch_first)).emit(x, groups, initial, attrs)
        for final, value in zip(finals, last, strict=True):
            final.append(value)
    return (x, *(_join(b, final, 0) for final in finals))


@dataclass(frozen=True)
class _Layer:
    """One layer of a stack. With `batch_first` x and the result are [batch, seq, ..]; states are not."""

    b: AtenBuilder
    cell: str
    has_biases: bool
    batch_first: bool

    def emit(
        self, x: Value, groups: Sequence[Sequence[Value]], initial: Sequence[Value], attrs: dict[str, Any]
    ) -> tuple[Value, list[Value]]:
        """The result and the last states; groups: each direction's weights, as ATen lists them."""
        b, cell = self.b, self.cell
        stacked = [_stack(b, [group[i] for group in groups]) for i in (0, 1)]
        bias = _stack(b, [_join(b, group[2:4], 0) for group in groups]) if self.has_biases else None
        projects = len(groups[0]) % 2
        operands = [x, *stacked, bias, None, *(self._turned(state) for state in initial)]
        if projects:
            operands += [None, _stack(b, [group[-1] for group in groups])]
        settings = {
            **attrs,
            **{key: value * len(groups) for key, value in attrs.items() if key == "activations"},
            "hidden_size": shape_of(groups[0][1])[1],
            "direction": "bidirectional" if len(groups) == 2 else "forward",
            "layout": int(self.batch_first),
        }
        if GATES[cell]:
            settings["gate_order"] = GATES[cell]
        names = (f"{cell}_all", *(f"{cell}_last" for _ in initial))
        everything, *last = b.emit_many(cell, operands, settings, names)
        # [seq, directions, batch, hidden] -> [seq, batch, directions * hidden]; with batch_first it is in that order.
        ordered = everything if self.batch_first else transpose(b, everything, (0, 2, 1, 3))
        first, second, directions, size = shape_of(ordered)
        joined = reshape(b, ordered, [first, second, directions * size])
        return joined, [self._turned(value) for value in last]

    def _turned(self, state: Value) -> Value:
        return transpose(self.b, state, (1, 0, 2)) if self.batch_first else state


def _stack(b: AtenBuilder, parts: Sequence[Value]) -> Value:
    """Equal shapes on a new axis in front. Joined before they are reshaped: so much of constants is folded."""
    return reshape(b, _join(b, parts, 0), [len(parts), *shape_of(parts[0])])


def _join(b: AtenBuilder, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=axis)
