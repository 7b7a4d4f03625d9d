"""Rows that rearrange, index and make tensors, against torch eager."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.compiler.frontends.torch_check import check_each

torch.manual_seed(0)
IMAGE = torch.randn(2, 6, 9, 8)
X = torch.randn(3, 5, dtype=torch.float64)
ROWS = torch.tensor([[2, 0], [1, -1]])
PLACES = torch.tensor([[2, 0, 1], [1, 0, 2]])
ONE = torch.tensor(3.0, dtype=torch.float64)


def write_slices(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:3] = 5
    y[0, 0] += 1
    y[:, :, ::2] = 0
    y[:, :, 1::3, 4:] = x[:, :, 1::3, 4:] * 2
    return y


def write_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, rows[0]] = 1.5
    y[rows[0]] += 2
    return y


SHAPES = {
    "view": lambda x: x.view(2, -1, 4, 3),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(1, (2, 3)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "t": lambda x: x[0, 0].t(),
    "transpose": lambda x: x.mT,
    "squeeze": lambda x: x[:1, :1].squeeze(),
    "squeeze_axis": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "expand": lambda x: x[:, :1].expand(-1, 4, 9, 8),
    "repeat": lambda x: x.repeat(2, 1, 2, 1, 3),
    "tile": lambda x: x.tile(2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "repeat_interleave_sized": lambda x: x.repeat_interleave(2, dim=1, output_size=12),
    "repeat_interleave_flat": lambda x: x.repeat_interleave(2),
    "slice": lambda x: x[:, 1:-1:2, -3:, :100],
    "slice_empty": lambda x: x[:, 4:2],
    "select": lambda x: x[:, -2],
    "chunk": lambda x: torch.cat(x.chunk(4, 2)[::-1], 2),
    "split": lambda x: torch.stack(x.split(3, 1), 0),
    "split_sizes": lambda x: x.split([2, 7], 2)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "cat_promotes": lambda x: torch.cat([x, x.double()], -1),
    "cat_empty": lambda x: torch.cat([x, torch.zeros(0)], 1),
    "stack": lambda x: torch.stack([x, x], -1),
    "flip": lambda x: x.flip(1, 3),
    "roll": lambda x: x.roll((2, -1), (1, 2)),
    "roll_flat": lambda x: x.roll(3),
    "pad": lambda x: F.pad(x, (1, 2, -1, 1), value=1.5),
    "pad_reflect": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"),
    "pad_circular": lambda x: F.pad(x, (1, 2, 3, 1), mode="circular"),
    "diagonal": lambda x: x.diagonal(1, 2, 3),
    "diagonal_below": lambda x: x.diagonal(-2, 2, 3),
    "tril": lambda x: x.tril(1),
    "triu": lambda x: x.triu(-1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :8], 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 3),
    "unfold": lambda x: x.unfold(2, 3, 2),
    "im2col": lambda x: F.unfold(x, 3, padding=1),
    "eye": lambda x: x @ torch.eye(8),
    "filled": lambda x: torch.full_like(x, 2) + torch.zeros_like(x) + torch.ones_like(x) + x.new_full((9, 8), 7.0),
    "arange": lambda x: torch.arange(2, 11, 3) * 1.0,
    "arange_float": lambda x: torch.arange(0, 1, 0.1),
    "linspace": lambda x: torch.linspace(0, 1, 7),
    "meshgrid": lambda x: torch.stack(torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :2] * 0, 1, 3, 5),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 0, 1, -2),
    "write_slices": write_slices,
}

READS = {
    "embedding": lambda x, r, p: F.embedding(r.abs(), x),
    "index_select": lambda x, r, p: x.index_select(1, p[0]),
    "index_rows": lambda x, r, p: x[r],
    "index_columns": lambda x, r, p: x[:, r],
    "index_pairs": lambda x, r, p: x[r[0], r[1]],
    "index_apart": lambda x, r, p: x.unsqueeze(0).expand(4, 3, 5)[r[0], :, r[1]],
    "index_last": lambda x, r, p: x.unsqueeze(0).expand(4, 3, 5)[:, r[0], r[1]],
    "write_mask": lambda x, r, p: x.index_put((x > 0,), ONE),
    "take": lambda x, r, p: x.take(p),
}

ELEMENTS = {
    "gather": lambda x, r, p: x.gather(1, p),
    "gather_rows": lambda x, r, p: torch.gather(x, 0, p),
    "take_along_dim": lambda x, r, p: x[:2].take_along_dim(p, 1),
    "scatter": lambda x, r, p: x.scatter(1, p, x[:2, :3] * 10),
    "scatter_value": lambda x, r, p: x.scatter(1, p, 7.0),
    "scatter_add": lambda x, r, p: x.scatter_add(0, p, x),
    "scatter_amax": lambda x, r, p: x.scatter_reduce(1, p, x, "amax"),
    "index_put": lambda x, r, p: x.index_put((r[0], r[1]), ONE),
    "index_put_add": lambda x, r, p: x.index_put((r[0],), x[:2], accumulate=True),
    "index_add": lambda x, r, p: x.index_add(1, p[0], x[:, :3]),
    "index_copy": lambda x, r, p: x.index_copy(1, p[0], x[:, :3]),
    "index_fill": lambda x, r, p: x.index_fill(1, p[0], 2.0),
    "write_rows": lambda x, r, p: write_rows(x, r),
}

ORDERS = {
    "topk": lambda x, r, p: x.topk(2)[0],
    "topk_smallest": lambda x, r, p: x.topk(2, dim=0, largest=False)[1],
    "sort": lambda x, r, p: x.sort(1, descending=True)[0],
    "argsort": lambda x, r, p: x.argsort(0),
    "sort_stable": lambda x, r, p: x.round().sort(stable=True)[1],
    "cumsum": lambda x, r, p: x.cumsum(0),
    "cumprod": lambda x, r, p: x.cumprod(1),
    "cumprod of integers": lambda x, r, p: (x > 0).cumprod(-1),
    "all true": lambda x, r, p: torch.ops.aten._is_all_true(x > -9) & ~torch.ops.aten._is_any_true(x > 9),
}


def test_shapes() -> None:
    check_each(SHAPES, (IMAGE,))


@pytest.mark.parametrize("group", [READS, ELEMENTS, ORDERS], ids=["reads", "elements", "orders"])
def test_indexing(group: dict) -> None:
    check_each(group, (X, ROWS, PLACES))
