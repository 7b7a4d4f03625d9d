"""BERT encoders (Devlin et al. 2018, arXiv:1810.04805) with the parameter names of Hugging Face's BertModel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from models.weights import random_ids, seeded

DYNAMIC = ({0: "batch", 1: "seq"}, {0: "batch", 1: "seq"}, {0: "batch", 1: "seq"})


@dataclass(frozen=True)
class Config:
    """Sizes of an encoder."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int = 30522
    positions: int = 512
    types: int = 2
    eps: float = 1e-12


CONFIGS = {
    "base": Config(layers=12, hidden=768, heads=12, intermediate=3072),
    "minilm": Config(layers=6, hidden=384, heads=12, intermediate=1536),
    "small": Config(layers=2, hidden=96, heads=4, intermediate=192, vocabulary=101, positions=128),
    "tiny": Config(layers=2, hidden=32, heads=4, intermediate=64, vocabulary=101, positions=128),
}


class Embeddings(nn.Module):
    """Word, position and type embeddings, added and normalised. [B, S] ids -> [B, S, hidden]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(config.types, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.eps)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(x + self.position_embeddings(positions))


class SelfAttention(nn.Module):
    """Multi-head attention over [B, S, hidden]; `mask` [B, 1, 1, S] is true where a key may be seen."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear layer, the residual, and the norm after it."""

    def __init__(self, fan_in: int, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(fan_in, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.eps)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config.hidden, config)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    """The widening half of the feed-forward network: linear, then exact GELU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.intermediate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """One encoder layer. [B, S, hidden] -> [B, S, hidden]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config.intermediate, config)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Pooler(nn.Module):
    """tanh of a linear layer on the first token. [B, S, hidden] -> [B, hidden]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(x[:, 0]))


class Bert(nn.Module):
    """Encoder with pooler: int64 [B, S] ids, mask (1 = a real token) and type ids -> ([B, S, hidden], [B, hidden])."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = attention_mask[:, None, None, :] != 0
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return hidden, self.pooler(hidden)


def build(
    config: str = "base", *, batch: int = 1, seq: int = 128, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A BERT of one of CONFIGS with random weights, and (ids, mask, type ids), each [batch, seq] int64; the last row
    ends in padding and the second half of every row is of type 1."""
    sizes = CONFIGS[config]
    ids = random_ids((batch, seq), sizes.vocabulary, seed + 1)
    mask = torch.ones_like(ids)
    mask[-1, seq - seq // 4 :] = 0
    types = (torch.arange(seq) >= seq // 2).long().expand(batch, seq).contiguous()
    return seeded(lambda: Bert(sizes), seed, dtype), (ids, mask, types)
