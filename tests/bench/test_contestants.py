"""Whole models in every precision: what everybody is given, who takes part, who is right."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np
import onnx
import pytest
import torch

import models
from bench import contestants, peers, quantized
from bench.contest import prepare
from bench.contestants import CONTESTANTS, Contestant, entrants
from bench.workload import PRECISIONS, Workload, load, outputs
from models.export import to_onnx

RUNTIMES = ["sansuan", "sansuan-torch", "onnxruntime", "openvino", "torch"]


@lru_cache
def mlp(precision: str) -> Workload:
    return load("mlp", precision=precision, batch=3)


def ops(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(model).graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_everybody_is_right_or_says_why_not(precision: str) -> None:
    work = mlp(precision)
    contest = work.contest(1)
    ready, errors, refused = prepare(contest, entrants(work, RUNTIMES, 1))
    assert contest.fields == {"model": "mlp", "precision": precision}
    assert {name for name in CONTESTANTS[precision] if name.startswith("sansuan")} <= set(ready)
    assert all(error <= PRECISIONS[precision].allowed for error in errors.values())
    assert all(why.startswith("unsupported: ") for why in refused.values())
    assert set(refused) == {"fp64": {"openvino"}, "fp32": set(), "bf16": {"onnxruntime"}}.get(
        precision, set() if peers.installed("nncf") else {"openvino-nncf"}
    )


def test_nobody_calibrates_with_what_is_measured() -> None:
    work = load("mlp", precision="int8")
    for sample in work.samples:
        for name, array in work.feeds.items():
            assert array.shape == sample[name].shape and not np.array_equal(array, sample[name])
            assert np.array_equal(np.sort(array), np.sort(sample[name]))
    error, right = work.check(CONTESTANTS["int8"]["sansuan-calibrated"].build(work, 1)())
    assert right and error > 1e-3, "8 bits cannot be nearer"


@pytest.mark.parametrize(("precision", "lower"), [("fp64", "fp32"), ("fp32", "bf16")])
def test_a_lower_precision_is_wrong(precision: str, lower: str) -> None:
    for name in ("torch", "sansuan"):
        _, right = mlp(precision).check(CONTESTANTS[lower][name].build(mlp(lower), 1)())
        assert not right, name


def test_bfloat_contestants_compute_in_bfloat() -> None:
    work = mlp("bf16")
    for name in ("sansuan", "sansuan-torch", "openvino", "torch", "torch-autocast"):
        error, right = work.check(CONTESTANTS["bf16"][name].build(work, 1)())
        assert right and error > 1e-4, name


def test_double_precision_is_in_the_file() -> None:
    kinds = {value.type.tensor_type.elem_type for value in onnx.load_model_from_string(mlp("fp64").onnx).graph.input}
    assert kinds == {onnx.TensorProto.DOUBLE}
    assert next(mlp("bf16").module.parameters()).dtype == torch.float32


def test_quantized_files_hold_integers() -> None:
    work = mlp("int8")
    assert ops(work.onnx_dynamic)["MatMulInteger"] == 3
    found = ops(work.onnx_qdq)
    assert found["QuantizeLinear"] >= 3 and found["DequantizeLinear"] >= 6
    assert len(work.onnx_qdq) < len(work.onnx) / 2


def test_only_products_of_transformers_are_quantized() -> None:
    module, inputs = models.build("gpt-tiny", seq=5)
    model = to_onnx(module, inputs)
    (name,) = (value.name for value in onnx.load_model_from_string(model).graph.input)
    graph = onnx.load_model_from_string(quantized.qdq(model, [{name: inputs[0].numpy()}])).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    readers = {node.op_type for node in graph.node if "DequantizeLinear" in {made.get(name) for name in node.input}}
    assert "MatMul" in readers or "Gemm" in readers
    assert not readers & {"Softmax", "LayerNormalization"}


def test_ranges_are_those_of_the_data() -> None:
    work = mlp("int8")
    scales = []
    for factor in (1.0, 10.0):
        data = [{name: factor * array for name, array in work.feeds.items()}]
        graph = onnx.load_model_from_string(quantized.qdq(work.onnx, data)).graph
        values = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
        first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in work.feeds)
        scales.append(float(values[first.input[1]]))
    assert scales[1] == pytest.approx(10 * scales[0], rel=1e-5)


def test_torch_leaves_networks_of_convolutions_out() -> None:
    with pytest.raises(peers.Unsupported, match="linear layers only"):
        peers.torch_quantized(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Linear(2, 2)))


def test_whatever_fails_is_said_and_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(work: Workload, threads: int) -> contestants.Call:
        return lambda: 1 / 0

    monkeypatch.setitem(CONTESTANTS["fp32"], "broken", Contestant(broken, "sansuan", "nothing"))
    chosen = entrants(mlp("fp32"), ["sansuan"], 1)
    assert list(chosen) == ["sansuan", "broken"] and chosen["broken"].given == "nothing"
    with pytest.raises(peers.Unsupported, match="ZeroDivisionError: division by zero"):
        chosen["broken"].build()
    assert chosen["sansuan"].build()()


def test_results_are_arrays() -> None:
    assert outputs(torch.ones(2, dtype=torch.bfloat16))[0].dtype == np.float32
    assert [part.shape for part in outputs((np.zeros(3), torch.zeros(4)))] == [(3,), (4,)]
