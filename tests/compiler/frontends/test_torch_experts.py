"""Products of grouped rows and histograms, against torch eager."""

from __future__ import annotations

import pytest
import torch
import transformers.integrations.moe  # noqa: F401 - registers transformers' call

from compiler.errors import UnsupportedOp
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import assert_close, call, check_each

torch.manual_seed(3)
X, W = torch.randn(24, 16), torch.randn(4, 16, 32)


class Grouped(torch.nn.Module):
    """Experts' weights as a model holds them, one of the two transposed."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = torch.nn.Parameter(W.to(dtype))
        self.down = torch.nn.Parameter(W.to(dtype).contiguous())

    def forward(self, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        # torch.export takes torch's own call for bfloat16 only; transformers has a call of its own for other types.
        own = self.up.dtype == torch.bfloat16
        product = torch._grouped_mm if own else torch.ops.transformers.grouped_mm_fallback
        hidden = product(x, self.up, offs=offsets)
        return product(hidden * 0.1, self.down.transpose(1, 2), offs=offsets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_read_their_offsets_when_run(dtype: torch.dtype) -> None:
    model = Grouped(dtype)
    x = X.to(dtype)
    imported = load(model, (x, torch.tensor([3, 8, 8, 24], dtype=torch.int32)))
    for ends in ([3, 8, 8, 24], [24, 24, 24, 24], [0, 0, 0, 24], [6, 12, 18, 24]):
        offsets = torch.tensor(ends, dtype=torch.int32)
        assert_close(call(imported, x, offsets), model(x, offsets), f"groups ending at {ends}")


def test_batched_products_need_no_offsets() -> None:
    check_each({"batched": lambda x, w: torch._grouped_mm(x, w)}, (X.reshape(4, 6, 16).bfloat16(), W.bfloat16()))


def test_other_ranks_are_refused() -> None:
    class Columns(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            return torch._grouped_mm(x, y, offs=offsets)

    x, y = torch.randn(16, 32).bfloat16(), torch.randn(32, 16).bfloat16()
    with pytest.raises(UnsupportedOp, match=r"ranks \(2, 2\); expected \(2, 3\)"):
        load(Columns(), (x, y, torch.tensor([8, 32], dtype=torch.int32)))


def test_histograms() -> None:
    cases = {
        "experts": lambda x, n: torch.histc(n, bins=6, min=0, max=5),
        "outside": lambda x, n: torch.histc(n, bins=3, min=1, max=3),
        "real": lambda x, n: torch.histc(x, bins=17, min=-1.5, max=1.25),
        "all": lambda x, n: torch.histc(x, bins=10),
        "one": lambda x, n: torch.histc(x[:1, 0], bins=4),
        "scalar": lambda x, n: torch.histc(x[0, 0], bins=4, min=-3, max=3),
        "nothing": lambda x, n: torch.histc(x[:0], bins=4),
    }
    numbers = torch.tensor([0.0, 5, 5, 3, 3, 3, 1, float("nan"), 6, -1])
    check_each(cases, (X, numbers))
