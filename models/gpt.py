"""A GPT-2 decoder (Radford et al. 2019): pre-norm layers, causal attention, tanh GELU, output tied to the embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from models.weights import random_ids, seeded

DYNAMIC = ({0: "batch", 1: "seq"},)


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int = 50257
    positions: int = 1024


CONFIGS = {
    "gpt2": Config(layers=12, hidden=768, heads=12),
    "tiny": Config(layers=2, hidden=32, heads=4, vocabulary=101, positions=128),
}


class Attention(nn.Module):
    """Causal multi-head attention, query, key and value from one projection. [B, S, hidden] -> [B, S, hidden]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.hidden, 3 * config.hidden)
        self.c_proj = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=2)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The feed-forward network, four times as wide inside."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden, 4 * config.hidden)
        self.c_proj = nn.Linear(4 * config.hidden, config.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.hidden)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token ids int64 [B, S] -> logits [B, S, vocabulary]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocabulary, config.hidden)
        self.wpe = nn.Embedding(config.positions, config.hidden)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.hidden)
        self.lm_head = nn.Linear(config.hidden, config.vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def build(
    config: str = "gpt2", *, batch: int = 1, seq: int = 128, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A GPT of one of CONFIGS with random weights, and token ids [batch, seq]."""
    sizes = CONFIGS[config]
    return seeded(lambda: GPT(sizes), seed, dtype), (random_ids((batch, seq), sizes.vocabulary, seed + 1),)
