"""Recurrent models end to end, from torch and from ONNX: any number of steps and rows without a compilation or a Host
step, close to float64, and the same bits whatever the threads and the batch."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import runtime
from compiler.frontends.onnx import load
from compiler.frontends.torch import load as load_torch
from compiler.kernels import GemmSpec
from compiler.pipeline import lower_graph
from compiler.recurrence import RecurrenceSpec

FEATURES, HIDDEN = 13, 40
SHAPES = [(7, 3), (1, 1), (300, 2), (33, 17), (2, 1)]  # (steps, rows)
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}  # torch's order of gates in ONNX's


@lru_cache(maxsize=8)
def layers(kind: str = "LSTM") -> nn.Module:
    """Two bidirectional layers."""
    torch.manual_seed(1)
    return getattr(nn, kind)(FEATURES, HIDDEN, num_layers=2, bidirectional=True).eval()


def inputs(steps: int, rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(steps).standard_normal((steps, rows, FEATURES)).astype(np.float32))


def from_torch(module: nn.Module, **options: Any) -> runtime.Program:
    return runtime.compile(module, (inputs(4, 3),), dynamic_shapes=({0: "steps", 1: "rows"},), **options)


@lru_cache(maxsize=8)
def onnx_bytes(kind: str = "LSTM", lengths: bool = False) -> bytes:
    """The same layers as ONNX exporters write them, with torch's weights; sizes are named."""
    nodes, weights = [], [numpy_helper.from_array(np.array([0, 0, -1], np.int64), "flat")]
    x = "x"
    for layer in range(2):
        names = [f"{what}{layer}" for what in ("w", "r", "b")]
        arrays = [
            np.stack([reordered(kind, layer, suffix, parts) for suffix in ("", "_reverse")])
            for parts in (["weight_ih"], ["weight_hh"], ["bias_ih", "bias_hh"])
        ]
        weights += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        attrs = {"hidden_size": HIDDEN, "direction": "bidirectional"}
        attrs |= {"linear_before_reset": 1} if kind == "GRU" else {}
        outputs = [f"y{layer}", f"h{layer}", f"c{layer}"][: 3 if kind == "LSTM" else 2]
        operands = [x, *names, *(["lengths"] if lengths else [])]
        nodes.append(helper.make_node(kind, operands, outputs, name=f"layer{layer}", **attrs))
        nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"turned{layer}"], perm=[0, 2, 1, 3]))
        x = f"joined{layer}"
        nodes.append(helper.make_node("Reshape", [f"turned{layer}", "flat"], [x]))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", "rows", FEATURES])]
    given += [helper.make_tensor_value_info("lengths", TensorProto.INT32, ["rows"])] if lengths else []
    result = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["steps", "rows", 2 * HIDDEN])
    last = helper.make_tensor_value_info("h1", TensorProto.FLOAT, [2, "rows", HIDDEN])
    graph = helper.make_graph(nodes, "layers", given, [result, last], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def reordered(kind: str, layer: int, suffix: str, parts: list[str]) -> np.ndarray:
    arrays = [getattr(layers(kind), f"{part}_l{layer}{suffix}").detach().numpy() for part in parts]
    return np.concatenate([np.split(a, len(GATES[kind]))[gate] for a in arrays for gate in GATES[kind]])


def exact(module: nn.Module, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """All h, and the last of the last layer, in float64."""
    with torch.no_grad():
        y, last = copy.deepcopy(module).double()(x.double())
    return y.numpy(), (last[0] if isinstance(last, tuple) else last)[-2:].numpy()


def results(found: Any) -> tuple[np.ndarray, np.ndarray]:
    y, last = found
    last = last[0] if isinstance(last, tuple) else last
    return np.asarray(y), np.asarray(last)[-2:]


def assert_near(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max(initial=0) <= 1e-5 * np.abs(b).max(initial=1)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("source", ["torch", "onnx"])
def test_any_number_of_steps_and_rows(source: str, kind: str) -> None:
    program = from_torch(layers(kind)) if source == "torch" else runtime.compile(onnx_bytes(kind))
    program(inputs(4, 3) if source == "torch" else inputs(4, 3).numpy())
    before = program.statistics().kernels_compiled
    for steps, rows in SHAPES:
        x = inputs(steps, rows)
        found = results(program(x if source == "torch" else x.numpy()))
        assert_near(found, exact(layers(kind), x))
    assert program.statistics().kernels_compiled == before
    assert "cuts: none" in program.explain()


def test_a_layer_is_one_product_and_one_recurrence() -> None:
    calls = lower_graph(load(onnx_bytes())).calls
    assert [type(call.spec) for call in calls] == [GemmSpec, RecurrenceSpec] * 2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("hidden", [HIDDEN, 300])  # large weights are views, not folded
def test_missing_first_states_and_batch_first_take_no_copy(kind: type[nn.Module], hidden: int) -> None:
    module = nn.Sequential(kind(FEATURES, hidden, bidirectional=True, batch_first=True), First()).eval()
    calls = lower_graph(load_torch(module, (inputs(4, 3),), ({0: "rows", 1: "steps"},)).graph).calls
    assert [type(call.spec) for call in calls] == [GemmSpec, RecurrenceSpec]
    assert calls[0].spec.constant_b and calls[1].spec.matrices == ("constant",)


class First(nn.Module):
    def forward(self, results: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return results[0]


def test_threads_and_batch_do_not_change_a_bit() -> None:
    one, two = (runtime.compile(onnx_bytes(), threads=threads) for threads in (1, 2))
    x = inputs(60, 18).numpy()
    whole = one(x)
    for _ in range(3):  # the first runs decide how many threads are used
        assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, two(x), strict=True))
    for row in (0, 7, 17):
        y, h = one(x[:, row : row + 1].copy())
        assert y[:, 0].tobytes() == whole[0][:, row].tobytes() and h[:, 0].tobytes() == whole[1][:, row].tobytes()


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_lengths_of_rows(kind: str) -> None:
    program = runtime.compile(onnx_bytes(kind, lengths=True))
    module = copy.deepcopy(layers(kind)).double()
    for steps, lengths in ((5, [5, 3, 1, 5]), (9, [2, 9])):
        x = inputs(steps, len(lengths))
        packed = pack_padded_sequence(x.double(), torch.tensor(lengths), enforce_sorted=False)
        with torch.no_grad():
            y, last = module(packed)
        last = last[0] if isinstance(last, tuple) else last
        expected = pad_packed_sequence(y, total_length=steps)[0].numpy(), last[-2:].numpy()
        assert_near(results(program(x.numpy(), np.array(lengths, np.int32))), expected)
    assert "cuts: none" in program.explain()


def test_float64() -> None:
    x = inputs(21, 3)
    found = results(runtime.compile(onnx_bytes(), precision="fp64")(x.numpy()))
    for a, b in zip(found, exact(layers(), x), strict=True):
        assert a.dtype == np.float64 and np.abs(a - b).max() <= 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_floats_are_rounded_once_a_layer(dtype: torch.dtype) -> None:
    module = nn.GRU(FEATURES, HIDDEN).eval().to(dtype)
    x = inputs(50, 2).to(dtype)
    found = runtime.compile(module, (x,))(x)[0]
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(x.double())[0].to(dtype)
    assert found.dtype == dtype
    assert (found.double() - expected.double()).abs().max() <= torch.finfo(dtype).eps


def test_projection_and_batch_first() -> None:
    torch.manual_seed(2)
    module = nn.LSTM(FEATURES, HIDDEN, num_layers=2, bidirectional=True, proj_size=9, batch_first=True).eval()
    program = runtime.compile(module, (inputs(4, 3),), dynamic_shapes=({0: "rows", 1: "steps"},))
    for steps, rows in SHAPES:
        x = inputs(rows, steps)
        assert_near(results(program(x)), exact(module, x))


def test_first_states_and_refresh() -> None:
    module = nn.LSTM(FEATURES, HIDDEN).eval()
    x, states = inputs(6, 2), (torch.randn(1, 2, HIDDEN), torch.randn(1, 2, HIDDEN))
    program = runtime.compile(module, (x, states))
    compiled = program.statistics().kernels_compiled
    for _ in range(2):
        with torch.no_grad():
            wanted, (h, c) = copy.deepcopy(module).double()(x.double(), tuple(s.double() for s in states))
            found, (one, other) = program(x, states)
            for a, b in ((found, wanted), (one, h), (other, c)):
                assert (a.double() - b).abs().max() <= 1e-6
            for parameter in module.parameters():
                parameter.mul_(1.25)
        program.refresh()
    assert program.statistics().kernels_compiled == compiled
