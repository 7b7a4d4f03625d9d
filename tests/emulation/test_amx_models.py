"""Quantized models on tiles: a whole program, compiled and run as on a machine that has them, gives the bits of this
machine's own units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import runtime
from backends.native import target as machine_target
from backends.native.target import host
from backends.native.units import amx as tiles
from models import bert, resnet
from tests.emulation.amx import Emulator

FEATURES = frozenset(feature for unit in tiles.UNITS for feature in unit.requires)
MODELS = {
    "bert": lambda: bert.build("small", batch=2, seq=19),
    "resnet": lambda: resnet.build((1, 1), width=16, classes=10, size=32, batch=2),
}


def outputs(program: runtime.Program, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    results = program(*inputs)
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


def have_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this machine has tiles."""
    with_tiles = replace(host(), features=host().features | FEATURES)
    monkeypatch.setattr(machine_target, "host", lambda: with_tiles)


@pytest.mark.parametrize(
    ("name", "precision", "threads"), [("bert", "int8", 2), ("resnet", "int8", 1), ("resnet", "static", 2)]
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
    assert len({row.node for row in on_tiles}) > 6
    for found, wanted in zip(outputs(program, inputs), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    counts = amx.counters()
    assert sum(count for name, count in counts.items() if name.startswith("TDPB") and name != "TDPBF16PS") > 100
    assert counts["LDTILECFG"] >= counts["TILERELEASE"] > 0
    assert amx.configured_threads == 0


def test_bfloat16_is_as_close_on_tiles(amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order of sums: as far from FP32 as this machine's own units are."""
    module, inputs = MODELS["bert"]()
    truth = outputs(runtime.compile(module, inputs), inputs)[0]
    here = outputs(runtime.compile(module, inputs, precision="bf16"), inputs)[0]
    have_tiles(monkeypatch)
    program = runtime.compile(module, inputs, precision="bf16")
    found = outputs(program, inputs)[0]
    assert any(row.unit.startswith("amx_bf16") for row in program.ledger())
    assert amx.counters()["TDPBF16PS"] > 100
    error, usual = (np.linalg.norm(x - truth) / np.linalg.norm(truth) for x in (found, here))
    assert 0 < error < 1.5 * usual
