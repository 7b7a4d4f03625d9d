"""Every operator of torch's core ATen set has a row or a reason; rows that few models call, against torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import runtime
from compiler.errors import UnsupportedOp
from compiler.frontends.aten import ROWS, SIZE_ROWS
from compiler.frontends.aten.refused import REFUSED
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import Each, call, check_each


def core_operators() -> Iterator[str]:
    # dir(torch.ops.aten) lists only what the process has used so far.
    names = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "aten::" in name}
    for packet in (getattr(torch.ops.aten, name) for name in names):
        overloads = [getattr(packet, overload) for overload in packet.overloads()]
        yield from (str(overload) for overload in overloads if torch.Tag.core in overload.tags)


def test_every_core_operator_has_a_row_or_a_reason() -> None:
    core = set(core_operators())
    assert len(core) > 150
    assert core - set(ROWS) - set(SIZE_ROWS) == core & set(REFUSED)
    assert not set(REFUSED) & (set(ROWS) | set(SIZE_ROWS))


def test_refused_operators_say_why() -> None:
    class Gradient(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten.avg_pool2d_backward(
                x, x.repeat(1, 1, 2, 2), [2, 2], [2, 2], [0, 0], False, True, None
            )

    with pytest.raises(UnsupportedOp, match=r"avg_pool2d_backward\.default: a gradient: only inference is compiled"):
        load(Gradient(), (torch.ones(1, 1, 2, 2),))


def test_running_extremes() -> None:
    x = torch.tensor([[1.0, 3, 3, -1, float("nan"), 7], [-2, -2, 5, 4, 5, float("inf")]])
    functions = {
        "values": lambda x: torch.cummax(x, 1)[0],
        "places": lambda x: torch.cummax(x, 1)[1],
        "down": lambda x: torch.cummin(x, 0)[0],
        "least": lambda x: torch.cummin(x[1], 0)[1],
        "whole": lambda x: torch.cummax(x.nan_to_num(0, 9, -9).to(torch.int8), 1)[0],
        "scalar": lambda x: torch.cummin(x[0, 0], 0)[0],
        "sums": lambda x: torch.logcumsumexp(x[:, :4] * 100, 1),
    }
    check_each(functions, (x,))


def test_searchsorted() -> None:
    rows = torch.rand(3, 7).sort(1).values
    functions = {
        "rows": lambda e, x: torch.searchsorted(e, x),
        "right": lambda e, x: torch.searchsorted(e, e.clone(), right=True, out_int32=True),
        "one": lambda e, x: torch.searchsorted(e[0], x),
        "scalar": lambda e, x: torch.searchsorted(e[0], 0.5, side="right"),
        "order": lambda e, x: torch.searchsorted(e.flip(1), x, sorter=torch.arange(7).flip(0).expand(3, 7)),
    }
    check_each(functions, (rows, torch.rand(3, 5)))


def test_memory_forms() -> None:
    functions = {
        "strided": lambda x: x.as_strided((3, 2), (2, 7), 1),
        "overlapping": lambda x: (x + 1).as_strided((4, 3), (1, 1)),
        "bits": lambda x: (x * 3).view(torch.int32),
        "distances": lambda x: torch.pdist(x),
        "city": lambda x: torch.pdist(x, 1),
    }
    check_each(functions, (torch.randn(5, 4),))
    with pytest.raises(UnsupportedOp, match="not contiguous"):
        load(Each({"turned": lambda x: x.t().as_strided((2, 2), (1, 2))}), (torch.randn(5, 4),))
    with pytest.raises(UnsupportedOp, match="same size"):
        load(Each({"bytes": lambda x: x.view(torch.uint8)}), (torch.randn(5, 4),))


def test_products_of_other_types() -> None:
    half = torch.randn(3, 4, 4).bfloat16()
    whole = torch.randint(-128, 127, (17, 8), dtype=torch.int8)
    functions = {
        "addbmm": lambda h, w: torch.addbmm(h[0].float(), h.float(), h.float(), beta=2, alpha=0.5),
        "int": lambda h, w: torch._int_mm(w, w.t().contiguous()[:, :8].contiguous()),
        "norm": lambda h, w: nn.functional.instance_norm(h[None].float()),
    }
    check_each(functions, (half, whole))


def test_random_numbers_have_the_shape_and_spread_of_torchs() -> None:
    weights = torch.tensor([0.0, 1, 2, 0, 5])
    functions: dict[str, Any] = {
        "rand": lambda x: torch.rand_like(x),
        "randn": lambda x: torch.randn(x.shape[0], 40),
        "randint": lambda x: torch.randint(3, 9, (50, 40)),
        "coins": lambda x: torch.bernoulli(x * 0 + 0.25),
        "flips": lambda x: torch.zeros(50, 40).bernoulli(0.75),
        "order": lambda x: torch.randperm(x.shape[0]),
        "classes": lambda x: torch.multinomial(weights, 3),
        "again": lambda x: torch.multinomial(weights, 400, replacement=True),
    }
    model, x = Each(functions), torch.ones(50, 40)
    program = runtime.compile(model, (x,))
    for found in (call(load(model, (x,)), x), program(x)):
        expected = model(x)
        assert {name: (v.shape, v.dtype) for name, v in found.items()} == {
            name: (v.shape, v.dtype) for name, v in expected.items()
        }
        assert found["rand"].min() >= 0 and found["rand"].max() < 1 and abs(found["rand"].mean() - 0.5) < 0.05
        assert abs(found["randn"].mean()) < 0.15 and abs(found["randn"].std() - 1) < 0.1
        assert found["randint"].unique().tolist() == [3, 4, 5, 6, 7, 8]
        assert abs(found["coins"].mean() - 0.25) < 0.06 and abs(found["flips"].mean() - 0.75) < 0.06
        assert sorted(found["order"].tolist()) == list(range(50))
        assert sorted(found["classes"].tolist()) == [1, 2, 4]
        assert set(found["again"].tolist()) == {1, 2, 4}
    assert not torch.equal(program(x)["rand"], program(x)["rand"])
    assert np.unique(program(x)["randn"].numpy()).size == 2000
