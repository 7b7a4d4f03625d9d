"""ATen calls whose results' sizes are data, and numbers out of tensors: by the reference and natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import runtime
from compiler.errors import SansuanError, ShapeError
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import Each, assert_close, call


def check(functions: dict[str, Callable[..., Any]], *calls: tuple[torch.Tensor, ...], dynamic: Any = None) -> None:
    """Import all functions at once for the first call's inputs; compare results with torch's on each call."""
    module = Each(functions)
    shapes = {"tensors": dynamic} if dynamic else None
    imported = load(module, calls[0], shapes)
    program = runtime.compile(module, calls[0], dynamic_shapes=shapes)
    for args in calls:
        expected = module(*args)
        for found in (call(imported, *args), program(*args)):
            for name, theirs in expected.items():
                pairs = (
                    [(found[name], theirs)]
                    if isinstance(theirs, torch.Tensor)
                    else zip(found[name], theirs, strict=True)
                )
                for ours, want in pairs:
                    assert_close(ours, want, name)


X = torch.tensor([[1.0, -2.0, 0.0], [0.0, 3.0, -1.0], [2.0, 0.0, 0.5], [-1.0, -1.0, -1.0], [0.5, 4.0, 0.0]])
NONE, ALL = X.abs() * -1 - 1, X.abs() + 1


def test_places_of_true_elements() -> None:
    functions = {
        "nonzero": lambda x: x.nonzero(),
        "argwhere": lambda x: torch.argwhere(x > 0),
        "columns": lambda x: torch.where(x > 0),
        "tuple": lambda x: x.nonzero(as_tuple=True),
        "counted": lambda x: x.nonzero().shape[0] * torch.ones(2),
    }
    check(functions, (X,), (NONE,), (ALL,), (X[:2],), dynamic=({0: "n"},))


def test_reads_through_masks() -> None:
    functions = {
        "elements": lambda x: x[x > 0] * 2,
        "rows": lambda x: x[x.sum(1) > 0].sum(0),
        "columns": lambda x: x[:, x.sum(0) > 0] + 1,
        "select": lambda x: torch.masked_select(x, x[:1] > 0),
        "both": lambda x: x[x[:, 0] > 0, 1],
        "pair": lambda x: x[x > 0] + x[x > 0],
    }
    check(functions, (X,), (NONE,), (ALL,))


def test_writes_through_masks() -> None:
    def put(values: Callable[[torch.Tensor], Any], mask: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
        def write(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[mask(x)] = values(x)
            return x

        return write

    functions = {
        "scalar": put(lambda x: 7.0, lambda x: x > 0),
        "row": put(lambda x: x[0].clone(), lambda x: x[:, 0] > 0),
        "selected": put(lambda x: x[x > 0] * 2, lambda x: x > 0),
        "rows": put(lambda x: x[x[:, 0] > 0] * 2, lambda x: x[:, 0] > 0),
        "masked_scatter": lambda x: x.masked_scatter(x > 0, torch.arange(15.0)),
        "added": lambda x: x.index_put((x[:, 0] > 0,), x[1], accumulate=True),
    }
    check(functions, (X,), (NONE,), (ALL,))
    del functions["row"], functions["masked_scatter"]
    functions["from_three"] = lambda x: x.masked_scatter(x > 0, x[x > 0].repeat(2))
    check(functions, (X,), (NONE,), (ALL,), (X[:2],), dynamic=({0: "n"},))


def test_indices_apart() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        cube = x[:, :, None].repeat(1, 1, 4)
        cube[torch.tensor([0, 2]), :, torch.tensor([1, 3])] = x[:2] * 10
        return cube

    check({"apart": write}, (X,))


def test_unique() -> None:
    functions = {
        "plain": lambda x: torch.unique(x),
        "all": lambda x: torch.unique(x, return_inverse=True, return_counts=True),
        "counts": lambda x: torch.unique(x, return_counts=True),
        "inverse": lambda x: torch.unique(x, return_inverse=True),
        "rows": lambda x: torch.unique(x > 0, dim=0),
        "runs": lambda x: torch.unique_consecutive(x.flatten().sort().values, return_inverse=True, return_counts=True),
        "row_runs": lambda x: torch.unique_consecutive(x.sign(), dim=0),
    }
    check(functions, (X,), (X * 0,), (X[:1],), dynamic=({0: "n"},))


def test_counting() -> None:
    whole, weights = torch.tensor([3, 1, 0, 3, 7, 1]), torch.rand(6)
    functions = {
        "bincount": lambda n, w: torch.bincount(n),
        "weighted": lambda n, w: torch.bincount(n, w, minlength=5),
        "long": lambda n, w: torch.bincount(n, minlength=12),
        "histc": lambda n, w: torch.histc(w, 4, 0.1, 0.7),
    }
    check(functions, (whole, weights), (whole * 0, weights), (whole + 9, weights))


def test_repeat_interleave() -> None:
    functions = {
        "rows": lambda x, n: torch.repeat_interleave(x, n, dim=0),
        "flat": lambda x, n: torch.repeat_interleave(x[0], n[:3]),
        "sized": lambda x, n: torch.repeat_interleave(x, n, dim=0, output_size=7),
        "places": lambda x, n: torch.repeat_interleave(n),
    }
    check(functions, (X, torch.tensor([1, 2, 0, 1, 3])), (X, torch.tensor([0, 0, 7, 0, 0])))


def test_numbers_in_arithmetic() -> None:
    functions = {
        "times": lambda x, n: x * n[0].item(),
        "line": lambda x, n: x * (n[0].item() * 2 + 1) - n[1].item() // 2,
        "share": lambda x, n: x / (x.abs().sum().item() + 1) ** 0.5,
        "rest": lambda x, n: x + n[1].item() % 3,
        "filled": lambda x, n: torch.full((3,), n[1].item()) + 1,
        "size": lambda x, n: x / x.shape[0] ** 0.5 + x.shape[0] / 3,
    }
    calls = [(X, torch.tensor([a, b])) for a, b in ((3, -5), (0, 0), (-2, 7))]
    check(functions, *calls, (X[:2], calls[0][1]), dynamic=({0: "n"}, None))


def test_numbers_as_sizes() -> None:
    def first(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        count = n[0].item()
        torch._check(count >= 0)
        torch._check(count <= x.shape[0])
        return x[:count] * 2

    def parts(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        a, b = n.tolist()
        torch._check(a >= 0)
        torch._check(b >= 0)
        torch._check(a + b == 5)
        one, two = x.split([a, b])
        return torch.stack([one.sum(0), two.sum(0)])

    functions = {
        "zeros": lambda x, n: torch.zeros(n[0].item(), 2) + 1,
        "count": lambda x, n: torch.arange(n[1].item()),
        "first": first,
        "parts": parts,
        "row": lambda x, n: x[n[0].item() - 5],
        "slice": lambda x, n: x[n[0].item() - 3 :],
        "upto": lambda x, n: x[: n[1].item() - 3],
    }
    check(functions, *((X, torch.tensor(n)) for n in ([2, 3], [4, 1], [0, 5])))


def test_assertions_about_sizes_are_kept() -> None:
    def first(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        count = n.item()
        torch._check(count >= 0)
        torch._check(count <= x.shape[0])
        return x[:count]

    program = runtime.compile(Each({"first": first}), (X, torch.tensor(2)))
    assert program(X, torch.tensor(5))["first"].shape == (5, 3)
    with pytest.raises(ShapeError, match="equal"):
        program(X, torch.tensor(6))
    with pytest.raises(ShapeError, match="at least 0"):
        program(X, torch.tensor(-1))


def test_too_few_elements_for_a_mask_are_an_error() -> None:
    program = runtime.compile(Each({"put": lambda x, y: x.masked_scatter(x > 0, y)}), (X, torch.ones(3)))
    assert program(-X.abs(), torch.ones(3))["put"].equal(-X.abs())
    with pytest.raises(SansuanError, match="out of range"):
        program(X, torch.ones(3))


def test_experts_by_mask() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.zeros_like(x)
            for number, layer in enumerate(self.layers):
                chosen = torch.where(x.argmax(1) == number)[0]
                out = out.index_add(0, chosen, layer(x[chosen]))
            return out

    model = Experts()
    program = runtime.compile(model, (X,), dynamic_shapes=({0: "tokens"},))
    for x in (X, NONE, ALL[:2]):
        assert_close(program(x), model(x).detach(), "experts")


def test_a_layer_after_a_mask_runs_natively() -> None:
    class Selected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x[x[:, 0] > 0]).relu()

    model = Selected()
    program = runtime.compile(model, (X,))
    for x in (X, NONE, ALL):
        assert_close(program(x), model(x).detach(), "selected")
    assert "cuts: 1" in program.explain()


def test_sizes_keep_their_meaning_where_others_turn_out_constant() -> None:
    fixed = torch.tensor([1.0, 0, 3, 0, 5])

    def both(x: torch.Tensor) -> torch.Tensor:
        ours = torch.arange(fixed.argmax().item()).sum()
        places = torch.where(x > 0)
        return ours + places[0][: places[0].shape[0] // 2] * 2 + places[1][: places[1].shape[0] // 2]

    check({"both": both}, (X,), (NONE,), (ALL,))
