"""LSTM, GRU and RNN: one matmul for the inputs of all steps, then one recurrence.

Operands: x [T, B, I], W [D, gates * H, I], R [D, gates * H, H], bias [D, 2 * gates * H], lengths [B], initial h and c
[D, B, H], peepholes [D, 3 * H]. Outputs: all h [T, D, B, H], the last h (and c) [D, B, H]. With layout 1 the batch
comes first everywhere. LSTM takes one operand more than ONNX's: a projection [D, P, H] of h, which then has P
elements everywhere (R [D, 4 * H, P]), as in Sak et al., "Long short-term memory recurrent neural network
architectures for large scale acoustic modeling" (2014). `gate_order` says where W, R and the biases have each of
ONNX's gates, if not in that order: torch's weights are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.dims import Size
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind
from compiler.ops.onnx_types import without
from compiler.ops.recurrent_cells import GRU, LSTM, RNN, Cell, settings
from compiler.ops.recurrent_layer import Layer, directions
from compiler.ops.rounding import round_to
from compiler.types import TensorType

PROJECTION = 8  # operand number
_COMMON = {
    "activation_alpha": None,
    "activation_beta": None,
    "activations": None,
    "clip": None,
    "direction": "forward",
    "hidden_size": None,
    "layout": 0,
}


def _infer(cell: Cell, call: Call) -> list[TensorType]:
    x, w, r = (call.tensor(i) for i in range(3))
    dtype = call.same_dtype(0, 1, 2)
    check_kind(call, dtype, FLOAT)
    if x.shape is None or r.shape is None:
        return [TensorType(dtype, None)] * call.outputs
    if len(x.shape) != 3 or len(r.shape) != 3:
        call.shape_error(f"x is {x}, R is {r}; expected rank 3 for both")
    hidden, count = r.shape[2], len(directions(call.attrs))
    projection = call.optional(PROJECTION)
    last = [hidden] * cell.states
    if projection is not None and projection.shape is not None:
        call.same_size(projection.shape[1], hidden, "size of h (rows of the projection, columns of R)")
        last = [hidden, projection.shape[2]]
    call.same_size(r.shape[0], count, "number of directions (of R, of the attribute)")
    call.same_size(r.shape[1], last[-1] * cell.gates, f"rows of R ({cell.gates} gates of {last[-1]})")
    if w.shape is not None:
        call.same_size(w.shape[2], x.shape[2], "input size (columns of W, last axis of x)")
        call.same_size(w.shape[1], r.shape[1], "rows (of W, of R)")
    steps, batch, _ = x.shape if not call.attrs["layout"] else (x.shape[1], x.shape[0], 0)
    states = [(batch, count, n) if call.attrs["layout"] else (count, batch, n) for n in last]
    gates, peepholes = (count, 2 * last[-1] * cell.gates), (count, 3 * last[-1])
    for i, expected in enumerate((gates, (batch,), *states, peepholes)[: PROJECTION - 3], start=3):
        if (operand := call.optional(i)) is not None:
            call.same_shape(operand.shape, expected, f"operand {i}")
    if call.attrs["layout"]:
        shapes: list[tuple[Size, ...]] = [(batch, steps, count, hidden), *((batch, count, n) for n in last)]
    else:
        shapes = [(steps, count, batch, hidden), *((count, batch, n) for n in last)]
    return [TensorType(dtype, shape) for shape in shapes][: call.outputs]


def _in_onnx_order(array: np.ndarray | None, gates: int, order: Sequence[int] | None) -> np.ndarray | None:
    """W, R or the biases with the gates along axis 1 (twice, for biases) in ONNX's order."""
    if array is None or order is None:
        return array
    blocks = np.split(array, gates if array.ndim == 3 else 2 * gates, axis=1)
    places = [*order, *(gates + gate for gate in order)][: len(blocks)]
    return np.concatenate([blocks[place] for place in places], axis=1)


def _reference(cell: Cell, operands: Sequence[np.ndarray | None], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w, r, bias, lengths, *rest = (*operands, *(None,) * (PROJECTION + 1 - len(operands)))
    initial, peepholes, projection = rest[: cell.states], rest[cell.states], rest[-1]
    dtype, first = x.dtype, attrs["layout"]
    exact = [None if a is None else a.astype(np.float64) for a in (x, w, r, bias, peepholes, projection)]
    x, w, r, bias, peepholes, projection = exact
    w, r, bias = (_in_onnx_order(a, cell.gates, attrs["gate_order"]) for a in (w, r, bias))
    x = x.swapaxes(0, 1) if first else x
    steps, batch = x.shape[:2]
    bias = np.zeros((w.shape[0], 2 * w.shape[1])) if bias is None else bias
    live = np.full(batch, steps) if lengths is None else lengths
    everything, last = [], []
    for d, backward in enumerate(directions(attrs)):
        widths = r.shape[2], r.shape[1] // cell.gates
        state = [
            np.zeros((batch, n)) if a is None else (a[:, d] if first else a[d]).astype(np.float64)
            for a, n in zip(initial, widths, strict=False)
        ]
        s = settings(attrs, cell.functions, d, len(w))
        wb, rb = np.split(bias[d], 2)
        outputs = np.zeros((steps, batch, r.shape[2]))
        for t in reversed(range(steps)) if backward else range(steps):
            new = cell.array(x[t] @ w[d].T + wb, state, r[d].T, rb, None if peepholes is None else peepholes[d], s)
            if projection is not None:
                new = (new[0] @ projection[d].T, *new[1:])
            going = (t < live)[:, None]
            state = [np.where(going, fresh, old) for fresh, old in zip(new, state, strict=True)]
            outputs[t] = np.where(going, new[0], 0)
        everything.append(outputs)
        last.append(state)
    stacked = [np.stack(everything, axis=1), *(np.stack(parts) for parts in zip(*last, strict=True))]
    if first:
        stacked = [stacked[0].transpose(2, 0, 1, 3), *(a.swapaxes(0, 1) for a in stacked[1:])]
    return tuple(round_to(a, dtype) for a in stacked)


def _decompose(cell: Cell, b: Builder, node: Node) -> tuple[Value, ...] | None:
    if any(node.inputs[i].type.shape is None for i in range(3)):  # type: ignore[union-attr]
        return None
    return Layer(b, cell, node).results()[: len(node.outputs)]


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
    turned = tuple("Tanh" if name == "Sigmoid" else "Sigmoid" for name in cell.functions)
    unlike = {"activations": (*cell.functions, *turned), "direction": "bidirectional", "layout": 1}
    x, *weights = layer(2)
    yield Sample((x.swapaxes(0, 1).copy(), *weights, lengths), {**own, **unlike}, 32, "unlike directions")
    x, *weights = layer(1)
    yield Sample((x[:0], *weights, None, *(s[:1] for s in states)), {}, 32, "no steps")
    if cell is LSTM:
        yield Sample((*layer(1), None, *(s[:1] for s in states), draw(1, 3 * hidden)), {}, 32, "peepholes")
        x, w, _, bias = layer(2)
        projected = (x, w, draw(2, cell.gates * hidden, 1), bias, lengths, draw(2, batch, 1), states[1])
        both = {"direction": "bidirectional"}
        yield Sample((*projected, None, draw(2, 1, hidden)), both, 32, "projection")
    if cell is not RNN:
        order = {"gate_order": (0, 3, 1, 2) if cell is LSTM else (1, 0, 2)}
        yield Sample(tuple(layer(1)), order, 32, "gates in torch's order")
        yield Sample(tuple(layer(1)), {**own, **order}, 32, "gates in torch's order, other form")
    yield Sample(tuple(a.astype(np.float16) for a in layer(1)), own, 1, "float16")
    wide = tuple(a.astype(np.float64) for a in layer(1))
    yield Sample(wide, tolerance=64, name="float64")


def _declare(name: str, onnx: str, cell: Cell, own: Mapping[str, Any]) -> None:
    attrs = {**_COMMON, **dict.fromkeys(own, 0)}
    ours = {**attrs, "gate_order": None}

    @op(
        name,
        onnx=OnnxRow(onnx, attrs, upgrades=((7, without("output_sequence")),)),
        attrs=ours,
        host_reason="the rank of an operand is not known",
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
