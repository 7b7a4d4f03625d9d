"""Models, and every op's samples, on an emulated Arm processor: every kernel gives the bits of the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.native.target import named
from compiler.op import Op, Sample
from compiler.pipeline import lower_graph
from compiler.policy import resolve
from runtime.importing import load
from tests.compiler.test_lowering import cases, graph_of
from tests.emulation import aarch64_programs
from tests.emulation.aarch64 import Processor
from tests.runtime.test_models import model, onnx_bytes

MACHINES = {name: named(name) for name in ("aarch64", "armv8.6")}
MACHINES["armv8.4"] = replace(named("armv8.6"), features=frozenset({"neon", "dotprod", "fullfp16"}))
# The unit that products of a small model run on, in the precision it is compiled in.
EXPECTED = {
    ("mlp", None, "aarch64"): "neon_float32",
    ("mlp", "bf16", "aarch64"): "neon_bfloat16",
    ("bert", None, "armv8.6"): "neon_float32",
    ("bert", "bf16", "armv8.6"): "bf16_bfloat16",
    ("gpt", None, "aarch64"): "neon_float32",
    ("resnet", None, "aarch64"): "neon_float32",
    ("resnet", "int8", "aarch64"): "neon_uint8_int8",
    ("resnet", "int8", "armv8.4"): "dotprod_uint8_int8",
    ("resnet", "int8", "armv8.6"): "i8mm_uint8_int8",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "machine"), EXPECTED, ids=str)
def test_models(
    name: str, precision: str | None, machine: str, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load(onnx_bytes(name), None, None).graph
    lowered = lower_graph(graph.with_policy(resolve(precision)) if precision else graph)
    arrays = [x.numpy() for x in model(name)[1]]
    units = aarch64_programs.run(lowered, arrays, aarch64, MACHINES[machine], monkeypatch)
    assert EXPECTED[name, precision, machine] in units


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "sample"), cases())
def test_samples(entry: Op, sample: Sample, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, arrays = graph_of(entry, sample)
    arrays = [np.ascontiguousarray(array).reshape(array.shape) for array in arrays]
    aarch64_programs.run(lower_graph(graph), arrays, aarch64, named("armv8.6"), monkeypatch)
