"""A fault in any node of any model is named as the first divergence; correct runs raise no alarm."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from compiler.passes.expose import isolate
from compiler.pipeline import lower_graph
from runtime.parity.compare import Comparison, compare
from runtime.parity.source import open_source
from runtime.parity.truth import in_fp64
from tests.runtime.parity_faults import FAULTS, is_eligible, planted
from tests.runtime.parity_models import MODELS

INPUTS = 50


@lru_cache
def eligible(name: str, fault: str) -> tuple[str, ...]:
    """The imported nodes whose own kernels a fault can be planted in."""
    model, draw = MODELS[name]()
    source = open_source(model, draw(0))
    truth = in_fp64(source.exposed, source.arrays)
    observed = dict(zip(source.input_names, source.arrays, strict=True))
    observed |= {v.name: np.asarray(truth[v.name], v.type.dtype.numpy) for v in source.exposed.outputs}
    calls = lower_graph(isolate(source.exposed, observed).graph).calls
    return tuple(dict.fromkeys(call.where[0] for call in calls if call.where and is_eligible(call, fault)))


def found(name: str, fault: str, node: str) -> bool:
    """Whether a planted fault is the first divergence, native kernels are blamed, and nothing else is."""
    model, draw = MODELS[name]()
    with planted(fault, node):
        report = compare(model, draw(1), cache=False)
    first = report.first_divergence
    return first is not None and first.node == node and report.blame == "native" and not report.agrees


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_the_first_divergence(name: str, fault: str) -> None:
    nodes = eligible(name, fault)
    assert all(found(name, fault, node) for node in nodes[len(nodes) // 2 :][:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_anywhere_is_the_first_divergence(name: str, fault: str) -> None:
    assert [node for node in eligible(name, fault) if not found(name, fault, node)] == []


@pytest.mark.parametrize("name", MODELS)
def test_faults_can_be_planted_in_most_nodes(name: str) -> None:
    """So that the tests above test something."""
    model, _ = MODELS[name]()
    moves = {"Reshape", "Transpose", "Shape", "Gather", "Concat", "Flatten"}
    computing = [node.name for node in model.graph.node if node.op_type not in moves]
    assert set(eligible(name, "constant")) == set(computing)
    assert name != "quantized" or len(eligible(name, "saturation")) == 3
    assert len(eligible(name, "bf16")) >= (len(computing) - 1 if name != "quantized" else 5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [3, pytest.param(INPUTS, marks=pytest.mark.slow)])
def test_correct_runs_raise_no_alarm(name: str, count: int) -> None:
    model, draw = MODELS[name]()
    comparison = Comparison(model, draw(0), ("native", "onnxruntime"))
    for seed in range(count):
        report = comparison.report(draw(seed))
        assert report.agrees, f"seed {seed}\n{report}"
