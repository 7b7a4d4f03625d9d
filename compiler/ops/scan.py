"""scan: a body over the slices of sequences, with carried states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.errors import ModelError
from compiler.frontends.onnx_node import OnnxNode
from compiler.ir import Value
from compiler.op import REQUIRED, Call, OnnxRow, op
from compiler.ops.bodies import (
    HOST,
    Body,
    carried_type,
    empty_rows,
    operand_types,
    outward,
    stable_body,
    varying_inputs,
    with_axis,
)
from compiler.ops.control import Rows, stacked
from compiler.ops.scan_unroll import Scanning, unrolled
from compiler.types import TensorType, ValueType


def _build_scan(b: Builder, node: OnnxNode) -> Sequence[Value]:
    body, sequences = node.attrs["body"], node.attrs["num_scan_inputs"]
    batched = node.version < 9
    lengths, inputs = (node.input(0), node.inputs[1:]) if batched else (None, node.inputs)
    states = len(inputs) - sequences
    rows = body.outputs - states
    if sequences < 1 or states < 0 or rows < 0 or len(body.declared) != len(inputs):
        raise ModelError(
            f"{b.place}: Scan with {len(inputs)} inputs, {sequences} of them sequences, has a body of "
            f"{len(body.declared)} inputs and {body.outputs} outputs; expected as many inputs"
        )
    input_axes = tuple(node.attr("scan_input_axes", (0,) * sequences))
    inputs_backward = node.attr("scan_input_directions") or node.attr("directions") or (0,) * sequences
    types = [_drop_axis(value.type, 0) if batched else value.type for value in inputs[:states]]
    for value, axis in zip(inputs[states:], input_axes, strict=True):
        types.append(_drop_axis(_drop_axis(value.type, 0) if batched else value.type, axis))
    scan = Scanning(
        states,
        input_axes,
        tuple(map(bool, inputs_backward)),
        tuple(node.attr("scan_output_axes", (0,) * rows)),
        tuple(map(bool, node.attr("scan_output_directions", (0,) * rows))),
        batched,
    )
    written_out = unrolled(b, body, scan, inputs) if lengths is None else None
    if written_out is not None:
        return written_out
    carried = {i: i for i in range(states)}
    graph = stable_body(b, body, types, carried)
    attrs = {
        "body": graph,
        **vars(scan),
        "empty": empty_rows(graph, [*types, *(value.type for value in body.captured)], carried, states),
    }
    return b.emit_many("scan", [lengths, *inputs, *body.captured], attrs, names=node.outputs)


def _drop_axis(type: ValueType, axis: int) -> ValueType:
    if not isinstance(type, TensorType):
        raise ModelError(f"Scan over {type}; expected tensors")
    if type.shape is None:
        return type
    shape = list(type.shape)
    if not -len(shape) <= axis < len(shape):
        raise ModelError(f"Scan along axis {axis} of {type}; expected an axis it has")
    del shape[axis]
    return replace(type, shape=tuple(shape))


@op(
    "scan",
    onnx=OnnxRow("Scan", {"body": REQUIRED, "num_scan_inputs": REQUIRED}, build=_build_scan),
    attrs={"body": REQUIRED, "states": REQUIRED, "input_axes": REQUIRED, "inputs_backward": REQUIRED,
           "output_axes": REQUIRED, "outputs_backward": REQUIRED, "batched": False, "empty": ()},
    host_reason=HOST,
)  # fmt: skip
class Scan:
    """A body over slices. Operands: lengths (opset 8) or None, states, sequences, captured values. Body: (states..,
    slices.., captured..) -> (states.., rows..). Outputs: the last states, then the rows stacked along output_axes.
    batched: opset 8, every operand has a leading batch axis and the scan is done for each element of it."""

    def infer(call: Call) -> Sequence[ValueType]:
        body, states, batched = call.attrs["body"], call.attrs["states"], call.attrs["batched"]
        operands = operand_types(call, 1)
        sequences = operands[states : states + len(call.attrs["input_axes"])]
        lead = (call.tensor(1).shape or (call.fresh(),))[0] if batched else 1
        inner = [_drop_axis(type, 0) for type in operands] if batched else operands
        actual = list(inner)
        for i, axis in enumerate(call.attrs["input_axes"], start=states):
            actual[i] = _drop_axis(inner[i], axis)
        first = inner[states]
        assert isinstance(first, TensorType) and sequences
        length = call.fresh() if first.shape is None else first.shape[call.attrs["input_axes"][0]]
        carried = {i: i for i in range(states)}
        types = [carried_type(body.inputs[i].type, body.outputs[i].type, actual[i], call) for i in carried]
        varying = varying_inputs(body, carried)
        for value, axis in zip(body.outputs[states:], call.attrs["output_axes"], strict=True):
            row = outward(value.type, body, actual, call.fresh, varying)
            types.append(with_axis(row, axis, length))
        return [with_axis(type, 0, lead) for type in types] if batched else types

    def reference(
        lengths: Any,
        *operands: Any,
        body: Body,
        states: int,
        input_axes: tuple[int, ...],
        inputs_backward: tuple[bool, ...],
        output_axes: tuple[int, ...],
        outputs_backward: tuple[bool, ...],
        batched: bool,
        empty: Rows,
    ) -> tuple[Any, ...]:
        last = states + len(input_axes)

        def scan(state: Sequence[Any], sequences: Sequence[np.ndarray], captured: Sequence[Any]) -> list[Any]:
            slices = [np.moveaxis(x, axis, 0) for x, axis in zip(sequences, input_axes, strict=True)]
            slices = [x[::-1] if backward else x for x, backward in zip(slices, inputs_backward, strict=True)]
            stacks: list[list[np.ndarray]] = [[] for _ in empty]
            for step in range(len(slices[0])):
                results = body([*state, *(x[step] for x in slices), *captured])
                state = results[:states]
                for stack, row in zip(stacks, results[states:], strict=True):
                    stack.append(row)
            rows = [stacked(s[::-1] if b else s, t) for s, b, t in zip(stacks, outputs_backward, empty, strict=True)]
            return [*state, *(np.moveaxis(x, 0, axis) for x, axis in zip(rows, output_axes, strict=True))]

        if not batched:
            return tuple(scan(operands[:states], operands[states:last], operands[last:]))
        longest = operands[states].shape[1]
        results = []
        for i in range(len(operands[0])):
            length = longest if lengths is None else int(lengths[i])
            sequences = [x[i][:length] for x in operands[states:last]]
            found = scan([x[i] for x in operands[:states]], sequences, operands[last:])
            results.append(found[:states] + [_padded(x, longest) for x in found[states:]])
        return tuple(np.stack(column) for column in zip(*results, strict=True))


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    """`rows` with zero rows after them."""
    return np.pad(rows, [(0, length - len(rows))] + [(0, 0)] * (rows.ndim - 1))
