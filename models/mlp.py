"""A multilayer perceptron with ReLU between its layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from models.weights import random_tensor, seeded

DYNAMIC = ({0: "batch"},)


class MLP(nn.Sequential):
    """Linear layers of the given sizes, ReLU between them. [batch, sizes[0]] -> [batch, sizes[-1]]."""

    def __init__(self, sizes: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(*layers[:-1])


def build(
    sizes: Sequence[int] = (64, 128, 128, 10), *, batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """An MLP and one input [batch, sizes[0]], both in `dtype`."""
    return seeded(lambda: MLP(sizes), seed, dtype), (random_tensor((batch, sizes[0]), seed + 1, dtype),)
