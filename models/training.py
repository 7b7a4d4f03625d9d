"""What the models trained here have in common: the same weights at every training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Random numbers decided by the seed, one thread, because sums split among threads round differently, and gradients
    whatever the caller's mode is. The global generator and thread count are as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=()), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
