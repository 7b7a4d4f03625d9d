"""ATen recurrent layers, kept whole: each layer is ONNX's LSTM, GRU or RNN with its gates reordered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.frontends.aten.base import AtenBuilder, aten, reshape, shape_of, slice_axis, transpose, unsupported
from compiler.ir import Value

# The order ONNX has the gates in, as positions in torch's order (lstm i f g o -> i o f c; gru r z n -> z r h).
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


@aten("aten.lstm.input")
def _lstm(
    b: AtenBuilder, x: Value, states: Sequence[Value], weights: Sequence[Value], *settings: Any
) -> tuple[Value, ...]:
    return _layers(b, "lstm", x, states, weights, settings, {})


@aten("aten.gru.input")
def _gru(b: AtenBuilder, x: Value, state: Value, weights: Sequence[Value], *settings: Any) -> tuple[Value, ...]:
    return _layers(b, "gru", x, (state,), weights, settings, {"linear_before_reset": 1})


@aten("aten.rnn_tanh.input")
def _rnn_tanh(b: AtenBuilder, x: Value, state: Value, weights: Sequence[Value], *settings: Any) -> tuple[Value, ...]:
    return _layers(b, "rnn", x, (state,), weights, settings, {"activations": ("Tanh",)})


@aten("aten.rnn_relu.input")
def _rnn_relu(b: AtenBuilder, x: Value, state: Value, weights: Sequence[Value], *settings: Any) -> tuple[Value, ...]:
    return _layers(b, "rnn", x, (state,), weights, settings, {"activations": ("Relu",)})


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
    per_direction = 4 if has_biases else 2
    if len(weights) != layers * directions * per_direction:
        raise unsupported(b, f"aten.{cell} with projections (proj_size)")
    if batch_first:
        x = transpose(b, x, (1, 0, 2))
    finals: list[list[Value]] = [[] for _ in states]
    for layer in range(layers):
        start = layer * directions * per_direction
        groups = [weights[start + d * per_direction :][:per_direction] for d in range(directions)]
        initial = [slice_axis(b, state, 0, layer * directions, directions) for state in states]
        x, last = _layer(b, cell, x, groups, initial, attrs)
        for final, value in zip(finals, last, strict=True):
            final.append(value)
    if batch_first:
        x = transpose(b, x, (1, 0, 2))
    return (x, *(_join(b, final, 0) for final in finals))


def _layer(
    b: AtenBuilder,
    cell: str,
    x: Value,
    groups: Sequence[Sequence[Value]],
    initial: Sequence[Value],
    attrs: dict[str, Any],
) -> tuple[Value, Sequence[Value]]:
    stacked = [_stack(b, [_reorder(b, group[i], cell) for group in groups]) for i in (0, 1)]
    bias = None
    if len(groups[0]) == 4:
        bias = _stack(b, [_join(b, [_reorder(b, group[i], cell) for i in (2, 3)], 0) for group in groups])
    hidden = shape_of(groups[0][1])[1]
    direction = "bidirectional" if len(groups) == 2 else "forward"
    activations = {key: value * len(groups) for key, value in attrs.items() if key == "activations"}
    operands = (x, *stacked, bias, None, *initial)
    names = (f"{cell}_all", *(f"{cell}_last" for _ in initial))
    outputs = b.emit_many(
        cell, operands, {**attrs, **activations, "hidden_size": hidden, "direction": direction}, names
    )
    # [seq, directions, batch, hidden] -> [seq, batch, directions * hidden]
    length, directions, batch, size = shape_of(outputs[0])
    joined = reshape(b, transpose(b, outputs[0], (0, 2, 1, 3)), [length, batch, directions * size])
    return joined, outputs[1:]


def _reorder(b: AtenBuilder, weight: Value, cell: str) -> Value:
    order = GATES[cell]
    size = shape_of(weight)[0] // len(order)
    return _join(b, [slice_axis(b, weight, 0, gate * size, size) for gate in order], 0)


def _stack(b: AtenBuilder, parts: Sequence[Value]) -> Value:
    return _join(b, [reshape(b, part, [1, *shape_of(part)]) for part in parts], 0)


def _join(b: AtenBuilder, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=axis)
