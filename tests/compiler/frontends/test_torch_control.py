"""Control flow and wrappers of exported programs: cond, while_loop, scan, map, flex_attention, autocast, no_grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch._higher_order_ops.map import map as torch_map
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import runtime
from compiler.errors import UnsupportedOp
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import assert_close, call


class Function(nn.Module):
    """A function with a Linear layer of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.layer = nn.Linear(3, 3)

    def forward(self, *args: Any) -> Any:
        return self.function(self.layer, *args)


def leaves(results: Any) -> list[Any]:
    return list(results) if isinstance(results, (tuple, list)) else [results]


def check(function: Callable[..., Any], *inputs: torch.Tensor, dynamic: Any = None, others: Any = ()) -> None:
    """The reference and the native program against torch, on `inputs` and on each of `others`."""
    model = Function(function).eval()
    shapes = {"args": dynamic} if dynamic else None
    imported = load(model, inputs, shapes)
    program = runtime.compile(model, inputs, dynamic_shapes=shapes)
    for args in (inputs, *others):
        expected = leaves(model(*args))
        for found in (leaves(call(imported, *args)), leaves(program(*args))):
            for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
                if isinstance(theirs, torch.Tensor):
                    assert_close(ours, theirs.detach(), f"result {i}")
                else:
                    assert ours == theirs and type(ours) is type(theirs)


X = torch.randn(5, 3)


def test_cond_on_contents() -> None:
    def branches(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: layer(x), lambda x: x - 1, (x,))

    check(branches, X.abs(), others=[(-X.abs(),)])


def test_cond_on_a_size_and_with_sizes_inside() -> None:
    def branches(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.shape[0] > 4, lambda x: x * x.shape[0], lambda x: x - 1, (x,))

    check(branches, X, dynamic=({0: "n"},), others=[(X[:3],), (X[:1],)])


def test_everything_refused_in_branches_and_around_them_is_listed() -> None:
    def branches(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        found = torch.cond(x.sum() > 0, torch.linalg.svdvals, torch.linalg.eigvalsh, (x,))
        return found + torch.special.bessel_y0(x)

    with pytest.raises(UnsupportedOp) as caught:
        load(Function(branches), (torch.ones(3, 3),))
    for name in ("_linalg_svd", "_linalg_eigh", "special_bessel_y0"):
        assert str(caught.value).count(f"aten.{name}.default") == 1


@pytest.mark.slow
def test_nested_cond() -> None:
    def branches(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        def positive(x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.max() > 2, lambda x: layer(x) + 1, lambda x: layer(x), (x,))

        return torch.cond(x.sum() > 0, positive, lambda x: x * 2, (x,))

    check(branches, X.abs() + 3, others=[(X.abs() / 100,), (-X.abs(),)])


def test_while_loop_with_a_layer() -> None:
    def rounds(layer: nn.Linear, x: torch.Tensor) -> Any:
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, layer(x).tanh()), (torch.tensor(0), x))

    check(rounds, X, dynamic=({0: "n"},), others=[(X[:2],)])


def test_while_loop_on_contents_and_a_python_number() -> None:
    def rounds(layer: nn.Linear, x: torch.Tensor) -> Any:
        return while_loop(lambda i, x: x.sum() < 100, lambda i, x: (i + 1, x * 2), (0, x))

    check(rounds, X.abs(), others=[(X.abs() + 100,)])


@pytest.mark.slow
def test_scan_and_its_reverse() -> None:
    def sums(layer: nn.Linear, x: torch.Tensor) -> Any:
        forward = scan(lambda c, y: (c + layer(y), c * y), torch.zeros(3), x)
        backward = scan(lambda c, y: (c + y, c - y), torch.zeros(3), x, reverse=True)
        across = scan(lambda c, y: (c + y, c - y), torch.zeros(8), torch.ones(8, 2), dim=1)
        return *forward, *backward, *across

    check(sums, X, dynamic=({0: "n"},), others=[(X[:2],)])


def test_map_over_rows() -> None:
    check(lambda layer, x: torch_map(lambda row: layer(row).sum() + 1, x), X, dynamic=({0: "n"},), others=[(X[:2],)])


@pytest.mark.slow
def test_associative_scan() -> None:
    def pairs(layer: nn.Linear, x: torch.Tensor) -> Any:
        def combine(a: Any, b: Any) -> Any:
            return a[0] * b[0], a[1] * b[0] + b[1]

        return associative_scan(combine, (x, x * 2), 0, combine_mode="generic")

    check(pairs, torch.randn(13, 3))


def test_vmap_autocast_and_no_grad_are_inlined() -> None:
    def wrapped(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = torch.vmap(lambda row: row - row.max())(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = layer(y)
        return z, y

    check(wrapped, X)


@pytest.mark.parametrize("heads", [pytest.param(4, marks=pytest.mark.slow), 2])
def test_flex_attention(heads: int) -> None:
    slopes = torch.tensor([0.1, 0.2, 0.3, 0.4])
    q, k, v = torch.randn(2, 4, 16, 8), torch.randn(2, heads, 16, 8), torch.randn(2, heads, 16, 8)

    def attention(layer: nn.Linear, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # Query 0 may see no key.
        mask = create_block_mask(lambda b, h, i, j: (i > j) & (i - j < 7), None, None, 16, 16, device="cpu")
        return flex_attention(
            q, k, v, score_mod=lambda s, b, h, i, j: s + slopes[h] * (i - j), block_mask=mask, enable_gqa=heads != 4
        )

    check(attention, q, k, v)


def test_refresh_reaches_bodies() -> None:
    def rounds(layer: nn.Linear, x: torch.Tensor) -> Any:
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, layer(x).tanh()), (torch.tensor(0), x))[1]

    model = Function(rounds).eval()
    program = runtime.compile(model, (X,))
    assert_close(program(X), model(X).detach(), "before")
    with torch.no_grad():
        model.layer.weight.mul_(-2)
        model.layer.bias.add_(1)
    program.refresh()
    assert_close(program(X), model(X).detach(), "after")
