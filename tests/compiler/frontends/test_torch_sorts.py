"""Rows that sort, against torch eager. Where torch leaves an index open (ties), what it points at is compared."""

from __future__ import annotations

import torch

import runtime
from tests.compiler.frontends.torch_check import check_each

torch.manual_seed(0)
X = torch.randn(3, 7, 4, dtype=torch.float64)
TIES = torch.randint(-2, 3, (5, 9))
NANS = X.clone()
NANS[0, 2, 1] = NANS[1, 3:5, 2] = NANS[2, :, 3] = float("nan")
HALVES = TIES.half() / 2
ONE = torch.tensor(2.5, dtype=torch.float64)

ORDERS = {
    "topk": lambda x, n, h, s: x.topk(2)[0],
    "topk_axis": lambda x, n, h, s: x.topk(5, dim=1)[1],
    "topk_smallest": lambda x, n, h, s: x.topk(2, dim=0, largest=False)[1],
    "topk_unsorted": lambda x, n, h, s: x.topk(4, sorted=False)[0].sort()[0],
    "sort": lambda x, n, h, s: x.sort(1, descending=True)[0],
    "sort_nan": lambda x, n, h, s: n.sort(1)[0],
    "sort_nan_falling": lambda x, n, h, s: n.sort(1, descending=True)[0],
    "argsort": lambda x, n, h, s: x.argsort(0),
    "argsort_stable": lambda x, n, h, s: h.argsort(dim=0, descending=True, stable=True),
    "sort_stable": lambda x, n, h, s: x.round().sort(stable=True)[1],
    "sort_half": lambda x, n, h, s: h.sort(stable=True)[1],
    "sort_bool": lambda x, n, h, s: (h > 0).sort(dim=0, stable=True)[1],
    "msort": lambda x, n, h, s: x.msort(),
    "kthvalue": lambda x, n, h, s: torch.stack([v.double() for v in x.kthvalue(3, 1)]),
    "kthvalue_kept": lambda x, n, h, s: x.kthvalue(2, -1, keepdim=True)[1],
    "kthvalue_nan": lambda x, n, h, s: n.kthvalue(6, 1)[0],
    "median": lambda x, n, h, s: x.median(),
    "median_even": lambda x, n, h, s: torch.stack([v.double() for v in x.median(2)]),
    "median_kept": lambda x, n, h, s: x.median(1, keepdim=True)[1],
    "median_nan": lambda x, n, h, s: torch.stack([v.double() for v in n.median(1)]),
    "median_of_nans": lambda x, n, h, s: n.median(),
    "median_int": lambda x, n, h, s: (h * 2).long().median(1)[0],
    "nanmedian": lambda x, n, h, s: n.nanmedian(),
    "nanmedian_axis": lambda x, n, h, s: n.nanmedian(1)[0],
    "nanmedian_kept": lambda x, n, h, s: n.nanmedian(2, keepdim=True)[0],
    "nanmedian_place": lambda x, n, h, s: n[:2].nanmedian(1)[1],
    "mode": lambda x, n, h, s: h.mode(1)[0],
    "mode_axis": lambda x, n, h, s: h.mode(0, keepdim=True)[0],
    "mode_place": lambda x, n, h, s: h.gather(1, h.mode(1, keepdim=True)[1]),
    "scalars": lambda x, n, h, s: torch.stack([s.sort()[0], s.topk(1)[0], s.kthvalue(1)[0], s.median(), s.mode()[0]]),
    "scalar_places": lambda x, n, h, s: torch.stack([s.argsort(), s.median(0)[1], s.mode()[1], s.nanmedian(0)[1]]),
}


def test_sorts() -> None:
    check_each(ORDERS, (X, NANS, HALVES, ONE))


class Filtered(torch.nn.Module):
    """Nucleus sampling's filter, and what else is read off sorted axes."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, places = x.sort(-1, descending=True)
        within = torch.where(values.softmax(-1).cumsum(-1) < 0.9, values, 0.0).gather(-1, places.argsort(-1))
        return within, x.median(-1)[0], x.nanmedian(0)[0], x.kthvalue(2, dim=0)[0], x.topk(3, 1)[1], x.mode(-1)[0]


def test_sizes_that_vary_run_natively() -> None:
    sizes = {0: torch.export.Dim("rows", min=2, max=400), 1: torch.export.Dim("columns", min=4, max=400)}
    program = runtime.compile(Filtered(), (torch.randn(5, 9),), dynamic_shapes=(sizes,), threads=2)
    assert "cuts: none" in program.explain()
    for shape in ((5, 9), (2, 4), (7, 33), (64, 300)):
        x = torch.randn(shape)
        for found, expected in zip(program(x), Filtered()(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
