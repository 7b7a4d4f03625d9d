"""torch.compile(model, backend="sansuan")."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.testing import CompileCounterWithBackend

from runtime import torch_backend
from runtime.torch_backend import sansuan
from tests.compiler.frontends.torch_check import assert_close


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The programs made, each with its example's shapes."""
    made: list[Any] = []
    compile = torch_backend.runtime.compile

    def recorded(model: Any, inputs: Any, **options: Any) -> Any:
        made.append(compile(model, inputs, **options))
        return made[-1]

    monkeypatch.setattr(torch_backend.runtime, "compile", recorded)
    return made


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_model_runs_and_its_weights_are_packed(compiled: list[Any]) -> None:
    model, x = Net().eval(), torch.randn(5, 3)
    fast = torch.compile(model, backend=sansuan)
    for _ in range(2):
        assert_close(fast(x), model(x), "net")
    assert len(compiled) == 1
    assert [str(spec) for spec in compiled[0].inputs] == ["tensors_0: float32[5, 3]"]


def test_the_entry_point_is_the_backend() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    group = "torch_dynamo_backends"
    (entry,) = (EntryPoint(name, value, group) for name, value in project["entry-points"][group].items())
    assert entry.name == "sansuan" and entry.load() is sansuan


def test_new_weights_are_taken(compiled: list[Any]) -> None:
    model, x = Net().eval(), torch.randn(5, 3)
    fast = torch.compile(model, backend=sansuan)
    fast(x)
    model.layers[0].weight.mul_(-2)
    assert_close(fast(x), model(x), "changed in place")
    model.layers[3].weight = nn.Parameter(torch.randn(2, 8))
    assert_close(fast(x), model(x), "another parameter")
    model.load_state_dict(Net().state_dict())
    assert_close(fast(x), model(x), "another state")
    assert len(compiled) == 1


def test_dynamic_sizes_compile_once_more_only(compiled: list[Any]) -> None:
    model = Net().eval()
    fast = torch.compile(model, backend=sansuan)
    for size in (5, 6, 7, 30, 2):
        x = torch.randn(size, 3)
        assert_close(fast(x), model(x), f"size {size}")
    assert len(compiled) == 2
    assert isinstance(compiled[1].inputs[0].shape[0], str)


def test_dynamic_from_the_start(compiled: list[Any]) -> None:
    def pair(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y).view(-1) * x.shape[0] + y.shape[1]

    fast = torch.compile(pair, backend=sansuan, dynamic=True)
    for m, k, n in ((5, 3, 4), (7, 2, 9), (3, 3, 3)):
        x, y = torch.randn(m, k), torch.randn(k, n)
        assert_close(fast(x, y), pair(x, y), f"{m} {k} {n}")


def test_graph_break(compiled: list[Any]) -> None:
    model, x = Net().eval(), torch.randn(5, 3)

    def broken(x: torch.Tensor) -> torch.Tensor:
        y = model(x)
        torch._dynamo.graph_break()
        return y * 2 if y.sum() > 0 else y - 1

    counter = CompileCounterWithBackend(sansuan)
    fast = torch.compile(broken, backend=counter)
    for sign in (1, -1):
        assert_close(fast(sign * x), broken(sign * x), "broken")
    assert counter.frame_count >= 2 and len(compiled) == counter.frame_count


class Counter(nn.Module):
    """Counts its calls in a buffer, and keeps what it saw last by an in-place copy."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last.copy_(x)
        return x * self.calls


def test_changed_buffers_and_inputs(compiled: list[Any]) -> None:
    model, x = Counter(), torch.randn(5, 3)
    fast = torch.compile(model, backend=sansuan)
    for count in (1, 2, 3):
        assert_close(fast(x), x * count, "counted")
        assert model.calls == count
        assert torch.equal(model.last, x)
    assert len(compiled) == 1

    def double(x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x + 1

    y = torch.ones(3)
    assert torch.compile(double, backend=sansuan)(y).tolist() == [3, 3, 3]
    assert y.tolist() == [2, 2, 2]


def test_numbers_from_outside(compiled: list[Any]) -> None:
    def scaled(x: torch.Tensor, k: int) -> torch.Tensor:
        return x * k + k

    fast, x = torch.compile(scaled, backend=sansuan), torch.randn(4)
    for k in (2, 3, 4, -9, 20):
        assert_close(fast(x, k), scaled(x, k), f"k = {k}")
    assert len(compiled) == 2


def test_numbers_that_decide_sizes(compiled: list[Any]) -> None:
    def first(x: torch.Tensor, k: int) -> torch.Tensor:
        return x[:k] + torch.zeros(k, 3)

    fast, x = torch.compile(first, backend=sansuan), torch.randn(40, 3)
    for k in (2, 3, 4, 20):
        assert_close(fast(x, k), first(x, k), f"k = {k}")


def test_inference_mode_and_options() -> None:
    model, x = Net().eval(), torch.randn(5, 3)
    fast = torch.compile(model, backend=sansuan, options={"precision": "fp64", "threads": 1})
    with torch.inference_mode():
        assert torch.allclose(fast(x).float(), model(x), atol=1e-5)


def test_what_is_refused_says_why() -> None:
    model, x = Net().eval(), torch.randn(5, 3)
    with torch.enable_grad(), pytest.raises(BackendCompilerFailed, match=r"no gradients.*torch.no_grad\(\)"):
        torch.compile(model, backend=sansuan)(x)
    with pytest.raises(BackendCompilerFailed, match="options speed are unknown; expected precision"):
        torch.compile(model, backend=sansuan, options={"speed": 3})(x)
    with pytest.raises(BackendCompilerFailed, match=r"aten\._linalg_svd\.default"):
        torch.compile(torch.linalg.svdvals, backend=sansuan)(torch.ones(3, 3))
