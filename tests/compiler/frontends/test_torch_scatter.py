"""ATen calls that write through indices against torch: sums and other reductions at one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import runtime
from compiler.errors import IndexOutOfRange
from compiler.frontends.torch import load
from compiler.kernels import HostCall
from compiler.pipeline import lower_graph
from tests.compiler.frontends.torch_check import Each, assert_close, check_each

REDUCE = ("sum", "prod", "amax", "amin", "mean")
DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(len(shape))
    return (torch.randn(shape) * 4).to(dtype)


def places(limit: int, *shape: int) -> torch.Tensor:
    torch.manual_seed(limit)
    return torch.randint(0, limit, shape)


def check(functions: dict[str, Callable[..., object]], *tensors: torch.Tensor) -> None:
    """As torch, and with kernels alone."""
    check_each(functions, tensors)
    lowered = lower_graph(load(Each(functions), tensors).graph)
    assert not [call.reason for call in lowered.calls if isinstance(call, HostCall)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduce", REDUCE)
def test_reductions(reduce: str, dtype: torch.dtype) -> None:
    functions = {
        "scatter": lambda x, e, v, s: x.scatter_reduce(1, e, s, reduce),
        "scatter alone": lambda x, e, v, s: x.scatter_reduce(1, e, s, reduce, include_self=False),
    }
    if reduce != "sum":  # which is index_add
        functions["index"] = lambda x, e, v, s: x.index_reduce(-2, v, s, reduce)
        functions["index alone"] = lambda x, e, v, s: x.index_reduce(-2, v, s, reduce, include_self=False)
    x, source = numbers(3, 5, 7, dtype=dtype), numbers(3, 9, 7, dtype=dtype)
    check(functions, x, places(4, 3, 9, 7), places(4, 9), source)


def test_sums() -> None:
    functions = {
        "scatter_add": lambda x, e, v, s: x.scatter_add(0, e, s),
        "expanded": lambda x, e, v, s: x.scatter_add(0, v[:, None].expand(6, 5), s),
        "part": lambda x, e, v, s: x.scatter_add(1, e[:4, :2] % 5, s),
        "index_add": lambda x, e, v, s: x.index_add(0, v, s, alpha=-2.5),
        "index_add columns": lambda x, e, v, s: x.index_add(1, v[:3], s[:4, :3]),
        "index_put": lambda x, e, v, s: x.index_put((v,), s, accumulate=True),
        "index_put pairs": lambda x, e, v, s: x.index_put((v, v + 1), s[:, 0], accumulate=True),
        "multiply": lambda x, e, v, s: x.scatter(0, e, s, reduce="multiply"),
        "put": lambda x, e, v, s: x.put(e[0], s[1]),
        "put_add": lambda x, e, v, s: x.put(e[0], s[1], accumulate=True),
        "scalar": lambda x, e, v, s: x[0, 0].scatter_add(0, v[0] * 0, s[0, 0]),
        "counts": lambda x, e, v, s: torch.zeros(5, dtype=torch.int64).scatter_add(0, v, torch.ones_like(v)),
    }
    check(functions, numbers(4, 5), places(4, 6, 5), places(4, 6), numbers(6, 5))


def test_negative_integer_means_round_down() -> None:
    x = torch.tensor([-7, 3, -1])
    functions = {"mean": lambda x, i, s: x.scatter_reduce(0, i, s, "mean")}
    check(functions, x, torch.tensor([0, 0, 1, 1, 1]), torch.tensor([-1, -3, 5, -9, -4]))


def test_writes_through_masks_of_any_length() -> None:
    class Merge(torch.nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return x.masked_scatter(mask[:, None], rows)

    steps, found = torch.export.Dim("steps", min=2), torch.export.Dim("found", min=2)
    shapes = {"x": {0: steps}, "mask": {0: steps}, "rows": {0: found}}
    inputs = [(numbers(n, 3), torch.arange(n) % 3 == 0, numbers(k, 3)) for n, k in ((9, 3), (500, 180), (2, 2))]
    program = runtime.compile(Merge(), inputs[0], dynamic_shapes=shapes)
    for given in inputs:
        assert_close(program(*given), Merge()(*given), "merged")
    assert "cuts: none" in program.explain()
    with pytest.raises(IndexOutOfRange):
        program(inputs[1][0], inputs[1][1], inputs[1][2][:100])
