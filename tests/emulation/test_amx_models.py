"""Quantized models on tiles: a whole program, compiled and run as on a machine that has them, gives the bits of this
machine's own units."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import runtime
from backends.native import target as machine_target
from backends.native.target import host
from backends.native.units import amx as tiles
from models import bert, mlp, resnet
from tests.emulation.amx import Emulator

FEATURES = frozenset(feature for unit in tiles.UNITS for feature in unit.requires)
MODELS = {
    "bert": lambda: bert.build("small", batch=2, seq=19),
    "resnet": lambda: resnet.build((1, 1), width=16, classes=10, size=32, batch=2),
    "mlp": lambda: mlp.build((70, 128, 96, 10), batch=21),
}
LAYERS = {"bert": 7, "resnet": 7, "mlp": 3}  # on tiles, at least


def outputs(program: runtime.Program, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    results = program(*inputs)
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


def have_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this machine has tiles."""
    with_tiles = replace(host(), features=host().features | FEATURES)
    monkeypatch.setattr(machine_target, "host", lambda: with_tiles)


@pytest.mark.parametrize(
    ("name", "precision", "threads"),
    [
        ("bert", "int8", 2),
        ("mlp", "int8", 1),
        pytest.param("resnet", "int8", 1, marks=pytest.mark.slow),
        pytest.param("resnet", "static", 2, marks=pytest.mark.slow),
    ],
)
def test_eight_bits_give_the_same_bits_on_tiles(
    name: str, precision: str, threads: int, amx: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of activations with and without zero points."""
    module, inputs = MODELS[name]()
    policy = runtime.calibrate(module, [inputs]) if precision == "static" else precision
    expected = outputs(runtime.compile(module, inputs, precision=policy), inputs)
    assert not any(amx.counters().values())
    have_tiles(monkeypatch)
    program = runtime.compile(module, inputs, precision=policy, threads=threads)
    on_tiles = [row for row in program.ledger() if row.unit.startswith("amx_int8")]
    assert len({row.node for row in on_tiles}) >= LAYERS[name]
    for found, wanted in zip(outputs(program, inputs), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    counts = amx.counters()
    assert sum(count for name, count in counts.items() if name.startswith("TDPB") and name != "TDPBF16PS") > 40
    assert counts["LDTILECFG"] >= counts["TILERELEASE"] > 0
    assert amx.configured_threads == 0


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "resnet"))])
def test_bfloat16_is_as_close_on_tiles(name: str, amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order of sums: as far from FP32 as this machine's own units are."""
    module, inputs = MODELS[name]()
    truth = outputs(runtime.compile(module, inputs), inputs)[0]
    here = outputs(runtime.compile(module, inputs, precision="bf16"), inputs)[0]
    have_tiles(monkeypatch)
    program = runtime.compile(module, inputs, precision="bf16")
    found = outputs(program, inputs)[0]
    assert len({row.node for row in program.ledger() if row.unit == "amx_bf16_bfloat16"}) >= LAYERS[name]
    assert amx.counters()["TDPBF16PS"] > 40
    error, usual = (np.linalg.norm(x - truth) / np.linalg.norm(truth) for x in (found, here))
    assert 0 < error < 1.5 * usual


class Perceptron(torch.nn.Module):
    """Three layers, the last of few columns, and a convolution before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(6, 20, 3, padding=1)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(20 * 36, 70),
            torch.nn.GELU(),
            torch.nn.Linear(70, 40),
            torch.nn.ReLU(),
            torch.nn.Linear(40, 9),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.relu(self.conv(x)).flatten(1))


SPLIT = {
    "perceptron": (lambda: (Perceptron(), (torch.randn(21, 6, 6, 6),)), 4),
    "bert": (lambda: bert.build("small", batch=2, seq=19), 8),
}


@pytest.mark.parametrize("name", ["perceptron", pytest.param("bert", marks=pytest.mark.slow)])
def test_float32_through_pieces_is_as_near_to_the_truth(
    name: str, amx: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where permitted: the ledger names the unit; the same bits for any threads; no further off than FP32 is."""
    torch.manual_seed(5)
    build, products = SPLIT[name][0], SPLIT[name][1]
    module, inputs = build()
    module.eval()
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    truth = (exact[0] if isinstance(exact, tuple) else exact).numpy()
    usual = outputs(runtime.compile(module, inputs), inputs)[0]
    here = runtime.compile(module, inputs, precision="bf16x3")
    np.testing.assert_array_equal(outputs(here, inputs)[0], usual)
    reasons = {row.reason for row in here.ledger() if row.kernel.startswith("gemm_float32")}
    assert reasons and all("amx_bf16x3 needs amx-tile, amx-bf16" in reason for reason in reasons)
    assert not any(amx.counters().values())
    have_tiles(monkeypatch)
    found = []
    for threads in (1, 2):
        program = runtime.compile(module, inputs, precision="bf16x3", threads=threads)
        found.append(outputs(program, inputs)[0])
        split = [row for row in program.ledger() if row.unit == "amx_bf16x3_float32"]
        assert len({row.node for row in split}) >= products
        assert all((row.in_dtype, row.acc_dtype) == ("float32", "float32") for row in split)
    np.testing.assert_array_equal(*found)
    assert amx.counters()["TDPBF16PS"] > 1000 and amx.configured_threads == 0
    error, before = (np.linalg.norm(x - truth) / np.linalg.norm(truth) for x in (found[0], usual))
    assert 0 < error < 2 * before
