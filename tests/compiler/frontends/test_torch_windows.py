"""ATen pools with indices, unpooling, folds, bags and segments against torch, with kernels alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.compiler.frontends.test_torch_scatter import check, numbers, places


def test_pools_with_indices() -> None:
    def pool(spatial: int, *window: object, **more: object) -> object:
        function = getattr(F, f"max_pool{spatial}d")
        return lambda x: function(x.reshape(2, 3, *[9, 8, 1][: spatial - 1], -1), *window, return_indices=True, **more)[
            1
        ]

    functions = {
        "2d": pool(2, 2),
        "overlap": pool(2, 3, 2, 1),
        "dilated": pool(2, (2, 3), (1, 2), (0, 1), 2),
        "ceil": pool(2, 3, 2, 1, ceil_mode=True),
        "1d": pool(1, 4, 3),
        "3d": pool(3, (2, 2, 1), (2, 1, 1)),
        "single": lambda x: F.max_pool2d(x[0], 2, return_indices=True)[1],
        "values": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        "adaptive": lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True)[1],
        "adaptive whole": lambda x: F.adaptive_max_pool2d(x, 1),
        "adaptive whole places": lambda x: F.adaptive_max_pool2d(x, 1, return_indices=True)[1],
        "adaptive uneven": lambda x: F.adaptive_max_pool2d(x, (4, 5)),
        "adaptive 3d": lambda x: F.adaptive_max_pool3d(x, (2, 4, 3)),
        "adaptive 1d": lambda x: F.adaptive_max_pool1d(x[0], 5),
    }
    check(functions, numbers(2, 3, 9, 8).round())


def test_the_place_of_a_nan() -> None:
    x = numbers(1, 1, 6, 6)
    x[0, 0, 1::2, ::3] = torch.nan
    x[0, 0, 0, 3:5] = -torch.inf
    check({"nan": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1]}, x)


def test_unpooling() -> None:
    functions = {
        "2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        "size": lambda x: F.max_unpool2d(*F.max_pool2d(x[..., :9], 2, 2, return_indices=True), 2, output_size=(8, 9)),
        "1d": lambda x: F.max_unpool1d(*F.max_pool1d(x[0], 2, return_indices=True), 2),
        "3d": lambda x: F.max_unpool3d(*F.max_pool3d(x, (1, 2, 2), return_indices=True), (1, 2, 2)),
        "single": lambda x: F.max_unpool2d(*F.max_pool2d(x[0], 2, return_indices=True), 2),
    }
    check(functions, numbers(2, 4, 8, 10))


def test_blocks() -> None:
    functions = {
        "unfold": lambda x, c: F.unfold(x, 3, padding=1),
        "unfold strides": lambda x, c: F.unfold(x, (2, 3), dilation=(2, 1), stride=(1, 2), padding=(0, 1)),
        "unfold patches": lambda x, c: F.unfold(x, 2, stride=2),
        "unfold single": lambda x, c: F.unfold(x[0], 2),
        "fold": lambda x, c: F.fold(c, (6, 8), 3, padding=1),
        "fold strides": lambda x, c: F.fold(c[:, :, :9], (7, 7), 3, stride=2),
        "fold single": lambda x, c: F.fold(c[0, :, :24], (6, 8), 3),
    }
    check(functions, numbers(2, 3, 6, 8), numbers(2, 27, 48))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str) -> None:
    functions = {
        "rows": lambda w, i, o, p: F.embedding_bag(i.reshape(3, 4), w, mode=mode),
        "offsets": lambda w, i, o, p: F.embedding_bag(i, w, o, mode=mode),
        "last": lambda w, i, o, p: F.embedding_bag(i, w, o, mode=mode, include_last_offset=True),
        "padding": lambda w, i, o, p: F.embedding_bag(i, w, o, mode=mode, padding_idx=2),
    }
    if mode == "sum":
        functions["weighted"] = lambda w, i, o, p: F.embedding_bag(i, w, o, mode=mode, per_sample_weights=p)
    check(functions, numbers(5, 7), places(5, 12), torch.tensor([0, 3, 3, 8, 12]), numbers(12))


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
def test_segments(reduce: str) -> None:
    functions = {
        "lengths": lambda x, n, o: torch.segment_reduce(x, reduce, lengths=n),
        "offsets": lambda x, n, o: torch.segment_reduce(x, reduce, offsets=o),
        "initial": lambda x, n, o: torch.segment_reduce(x, reduce, lengths=n, initial=2),
        "matrix": lambda x, n, o: torch.segment_reduce(x.reshape(-1, 1) * x, reduce, lengths=n),
    }
    check(functions, numbers(10), torch.tensor([3, 0, 2, 5]), torch.tensor([0, 4, 4, 9, 10]))
