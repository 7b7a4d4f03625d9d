"""Models, and every op's samples, on an emulated Arm processor: every kernel gives the bits of the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.native import gemm
from backends.native.target import named
from compiler.op import Op, Sample
from compiler.pipeline import lower_graph
from compiler.policy import resolve
from runtime.importing import load
from tests.compiler.test_lowering import cases, graph_of
from tests.emulation import aarch64_programs
from tests.emulation.aarch64 import Processor, cpu_of, processor
from tests.runtime.test_models import model, onnx_bytes

MACHINES = {name: named(name) for name in ("aarch64", "armv8.6", "armv8.4-sve256", "armv8.2-sve512", "armv9-sme")}
MACHINES["armv8.4"] = replace(named("armv8.6"), features=frozenset({"neon", "dotprod", "fullfp16"}))
# The unit that products of a small model run on, in the precision it is compiled in.
EXPECTED = {
    ("mlp", None, "aarch64"): "neon_float32",
    ("mlp", "bf16", "aarch64"): "neon_bfloat16",
    ("bert", None, "armv8.6"): "neon_float32",
    ("bert", "bf16", "armv8.6"): "bfmmla_bfloat16",
    ("gpt", None, "aarch64"): "neon_float32",
    ("resnet", None, "aarch64"): "neon_float32",
    ("resnet", "int8", "aarch64"): "neon_uint8_int8",
    ("resnet", "int8", "armv8.4"): "dotprod_uint8_int8",
    ("resnet", "int8", "armv8.6"): "i8mm_uint8_int8",
    ("bert", None, "armv8.4-sve256"): "sve_float32",
    ("bert", "bf16", "armv8.4-sve256"): "sve_bfmmla_bfloat16",
    ("resnet", "int8", "armv8.4-sve256"): "sve_i8mm_uint8_int8",
    ("gpt", "bf16", "armv8.2-sve512"): "sve_bfloat16",
    ("resnet", "int8", "armv8.2-sve512"): "sve_uint8_int8",
    ("bert", None, "armv9-sme"): "sme_float32",
    ("bert", "bf16", "armv9-sme"): "sme_bfloat16",
    ("resnet", None, "armv9-sme"): "sme_float32",
    ("resnet", "bf16", "armv9-sme"): "sme_bfloat16",
    ("resnet", "int8", "armv9-sme"): "sme_uint8_int8",
}


@pytest.fixture
def in_order(aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in the reference's order."""
    monkeypatch.setattr(gemm, "suits_tiles", lambda call: False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "machine"), EXPECTED, ids=str)
def test_models(
    name: str, precision: str | None, machine: str, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load(onnx_bytes(name), None, None).graph
    lowered = lower_graph(graph.with_policy(resolve(precision)) if precision else graph)
    arrays = [x.numpy() for x in model(name)[1]]
    target = MACHINES[machine]
    units = aarch64_programs.run(lowered, arrays, processor(cpu_of(target)), target, monkeypatch)
    assert EXPECTED[name, precision, machine] in units


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "sample"), cases())
def test_samples(entry: Op, sample: Sample, in_order: None, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, arrays = graph_of(entry, sample)
    arrays = [np.ascontiguousarray(array).reshape(array.shape) for array in arrays]
    for target in (MACHINES["armv8.6"], MACHINES["armv8.4-sve256"]):
        aarch64_programs.run(lower_graph(graph), arrays, processor(cpu_of(target)), target, monkeypatch)
