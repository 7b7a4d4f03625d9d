"""Models end to end through runtime.compile, from torch and from ONNX: right, repeatable, no Host steps or recompiles.

Small configurations here; the sizes people use behind the slow marker.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

import runtime
from models import bert, gpt, minilm, mlp, resnet
from models.export import to_onnx

Build = Callable[..., tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]

BATCH_SEQ = {0: "batch", 1: "seq"}
SMALL: dict[str, tuple[Build, dict[str, Any], dict[int, str]]] = {
    "mlp": (mlp.build, {"sizes": (13, 32, 7)}, {0: "batch"}),
    "resnet": (resnet.build, {"blocks": (1, 1, 1, 1), "width": 8, "classes": 10, "size": 64}, {0: "batch"}),
    "bert": (bert.build, {"config": "tiny", "seq": 9}, BATCH_SEQ),
    "gpt": (gpt.build, {"config": "tiny", "seq": 9}, BATCH_SEQ),
}
LARGE: dict[str, tuple[Build, dict[str, Any], dict[int, str]]] = {
    "resnet50": (resnet.build, {}, {0: "batch"}),
    "bert-base": (bert.build, {"config": "base"}, BATCH_SEQ),
    "gpt2": (gpt.build, {"config": "gpt2"}, BATCH_SEQ),
}


@lru_cache(maxsize=16)
def model(name: str, double: bool = False) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    build, options, _ = {**SMALL, **LARGE}[name]
    module, inputs = build(**options, batch=2 if name in SMALL else 1)
    if not double:
        return module, inputs
    return copy.deepcopy(module).double(), tuple(x.double() if x.is_floating_point() else x for x in inputs)


def dynamic(name: str) -> tuple[dict[int, str], ...]:
    return tuple({**SMALL, **LARGE}[name][2] for _ in model(name)[1])


@lru_cache(maxsize=16)
def onnx_bytes(name: str, double: bool = False) -> bytes:
    return to_onnx(*model(name, double), dynamic=dynamic(name))


def from_torch(name: str, double: bool = False, **options: Any) -> runtime.Program:
    module, inputs = model(name, double)
    sizes = {size: torch.export.Dim(size) for axes in dynamic(name) for size in axes.values()}
    shapes = tuple({axis: sizes[size] for axis, size in axes.items()} for axes in dynamic(name))
    return runtime.compile(module, inputs, dynamic_shapes=shapes, **options)


def arrays(inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    return [x.numpy() for x in inputs]


def truth(name: str, inputs: tuple[torch.Tensor, ...] | None = None) -> list[np.ndarray]:
    module, _ = model(name, double=True)
    inputs = model(name)[1] if inputs is None else inputs
    with torch.no_grad():
        result = module(*(x.double() if x.is_floating_point() else x for x in inputs))
    return [r.numpy() for r in (result if isinstance(result, tuple) else (result,))]


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))


def results(program: runtime.Program, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    found = program(*inputs)
    return [np.asarray(r) for r in (found if isinstance(found, tuple) else (found,))]


def check(program: runtime.Program, name: str, bound: float) -> None:
    for found, exact in zip(results(program, model(name)[1]), truth(name), strict=True):
        assert found.shape == exact.shape and relative_error(found, exact) <= bound
    assert not [row for row in program.ledger() if row.unit == "host"]
    assert "cuts: none" in program.explain()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("source", ["torch", "onnx"])
def test_float32(name: str, source: str) -> None:
    program = from_torch(name) if source == "torch" else runtime.compile(onnx_bytes(name))
    check(program, name, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_float64_from_torch(name: str) -> None:
    _, inputs = model(name, double=True)
    for found, exact in zip(results(from_torch(name, double=True), inputs), truth(name), strict=True):
        assert found.dtype == np.float64 and relative_error(found, exact) <= 1e-14


@pytest.mark.parametrize(
    ("name", "double"),
    [
        ("gpt", True),
        ("mlp", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("bert", True), ("resnet", False), ("gpt", False))),
    ],
)
def test_float64_from_onnx(name: str, double: bool) -> None:
    # A file's float attributes (epsilons) and folded weights are float32, so the file itself says what is exact.
    data, precision = onnx_bytes(name, double), None if double else "fp64"
    program, reference = (runtime.compile(data, precision=precision, backend=b) for b in ("native", "reference"))
    _, inputs = model(name, double)
    for found, exact in zip(results(program, inputs), results(reference, inputs), strict=True):
        assert found.dtype == np.float64 and relative_error(found, exact) <= 1e-14


@pytest.mark.parametrize("name", SMALL)
def test_reference_backend(name: str) -> None:
    program = runtime.compile(onnx_bytes(name), backend="reference")
    for found, exact in zip(results(program, model(name)[1]), truth(name), strict=True):
        assert relative_error(found, exact) <= 2e-6


@pytest.mark.parametrize("name", SMALL)
def test_threads_and_batch_do_not_change_a_bit(name: str) -> None:
    build, options, _ = SMALL[name]
    _, inputs = build(**options, batch=8)
    inputs = tuple(torch.ones_like(x) if index == 1 and name == "bert" else x for index, x in enumerate(inputs))
    one, two = (runtime.compile(onnx_bytes(name), threads=threads) for threads in (1, 2))
    whole = one(*arrays(inputs))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, two(*arrays(inputs)), strict=True))
    for row in (0, 7):
        alone = one(*(x[row : row + 1].copy() for x in arrays(inputs)))
        assert all(a[0].tobytes() == b[row].tobytes() for a, b in zip(alone, whole, strict=True))


@pytest.mark.parametrize("name", ["bert", "gpt", "resnet"])
def test_new_shapes_compile_no_kernel(name: str) -> None:
    build, options, axes = SMALL[name]
    program = runtime.compile(onnx_bytes(name))
    program(*arrays(model(name)[1]))
    before = program.statistics().kernels_compiled
    for batch, seq in ((1, 1), (3, 17), (5, 4), (2, 9)):
        varied = {**options, "seq": seq} if "seq" in axes.values() else options
        _, inputs = build(**varied, batch=batch)
        for found, exact in zip(program(*arrays(inputs)), truth(name, inputs), strict=True):
            assert found.shape == exact.shape and relative_error(found, exact) <= 2e-6
    assert program.statistics().kernels_compiled == before


def test_refresh_takes_new_weights_without_compiling() -> None:
    module, inputs = mlp.build(sizes=(16, 32, 4), batch=3)
    program = runtime.compile(module, inputs)
    old = program(*inputs)
    compiled = program.statistics().kernels_compiled
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    assert torch.equal(program(*inputs), old)
    program.refresh()
    with torch.no_grad():
        assert torch.allclose(program(*inputs), module(*inputs), rtol=1e-5, atol=1e-6)
    assert program.statistics().kernels_compiled == compiled


def test_equal_layers_share_kernels() -> None:
    deep, inputs = bert.build("tiny", seq=9)
    program = runtime.compile(deep, inputs)
    gemms = {row.kernel for row in program.ledger() if row.op == "aten.linear"}
    assert len([row for row in program.ledger() if row.op == "aten.linear"]) > 2 * len(gemms)


def test_outputs_never_alias() -> None:
    program = runtime.compile(onnx_bytes("mlp"))
    inputs = arrays(model("mlp")[1])
    first = program(*inputs)[0]
    saved = first.copy()
    program(*(x + 1 for x in inputs))
    assert np.array_equal(first, saved)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("source", ["torch", "onnx"])
def test_large_float32(name: str, source: str) -> None:
    program = from_torch(name) if source == "torch" else runtime.compile(onnx_bytes(name))
    check(program, name, 2e-6)


@pytest.mark.slow
def test_trained_sentence_encoder() -> None:
    module, inputs = minilm.build()
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(*inputs).numpy()
    for program in (runtime.compile(module, inputs), runtime.compile(to_onnx(module, inputs))):
        (found,) = results(program, inputs)
        assert relative_error(found, exact) <= 2e-6
        assert not [row for row in program.ledger() if row.unit == "host"]


@pytest.mark.slow
def test_float64_mlp() -> None:
    module, inputs = mlp.build(sizes=(256, 512, 512, 64), batch=32, dtype=torch.float64)
    with torch.no_grad():
        exact = module(*inputs).numpy()
    assert relative_error(results(runtime.compile(module, inputs), inputs)[0], exact) <= 1e-14
