"""Seeded random weights of sensible scale: activations keep their order of magnitude through every layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> nn.Module:
    """`make()` with weights decided by `seed` alone, in `dtype` and eval mode; the global generator is untouched."""
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            _randomise(module)
    return model.to(dtype).eval()


def _randomise(module: nn.Module) -> None:
    # Linear layers keep torch's own initialisation, which preserves scale well enough.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Embedding):
        module.weight.mul_(0.05)
    elif isinstance(module, nn.LayerNorm):
        module.weight.normal_(1.0, 0.1)
        module.bias.normal_(0.0, 0.1)
    elif isinstance(module, nn.BatchNorm2d):
        # Statistics far from (0, 1), so that folding them wrongly shows.
        assert module.running_mean is not None and module.running_var is not None, "batch norms here track statistics"
        module.running_mean.normal_(0.0, 0.2)
        module.running_var.uniform_(1.0, 3.0)
        module.weight.uniform_(0.5, 1.0)
        module.bias.normal_(0.0, 0.1)


def random_tensor(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Standard normal numbers decided by `seed` alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_ids(shape: tuple[int, ...], limit: int, seed: int) -> torch.Tensor:
    """Uniform int64 numbers in [0, limit) decided by `seed` alone."""
    return torch.randint(0, limit, shape, generator=torch.Generator().manual_seed(seed))
