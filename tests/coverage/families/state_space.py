"""State space models and recurrent language models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH, BATCH_SEQ, Builder, Case, hugging, ids, plain

KIND = "state space and recurrent"


def language(model: str, config: str, dynamic: bool = False, **options: Any) -> Case:
    """A language model without attention. Its scan is unrolled over a fixed length, the batch may vary."""

    def inputs(batch: int = 2, seq: int = 6) -> dict[str, torch.Tensor]:
        return {"input_ids": ids(batch, seq)}

    made = getattr(hf, model)(getattr(hf, config)(vocab_size=97, hidden_size=32, num_hidden_layers=2, **options))
    sizes = {"input_ids": BATCH} if dynamic else None
    return hugging(made, inputs, "logits", dynamic=sizes, other=(3,) if dynamic else (), use_cache=False)


class MatrixMemory(nn.Module):
    """An mLSTM layer (xLSTM, Beck et al. 2024) in its parallel form: gated linear attention with a stabiliser."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.inner = nn.LayerNorm(width), nn.GroupNorm(heads, width)
        self.qkv, self.gates = nn.Linear(width, 3 * width), nn.Linear(width, 2 * heads)
        self.out, self.skip = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x.shape
        y = self.norm(x)
        q, k, v = (part.view(batch, seq, self.heads, -1).transpose(1, 2) for part in self.qkv(y).split(width, dim=-1))
        enter, forget = self.gates(y).transpose(1, 2).chunk(2, dim=1)
        total = f.logsigmoid(forget).cumsum(-1)
        decay = total[..., :, None] - total[..., None, :] + enter[..., None, :]
        decay = decay.masked_fill(torch.ones(seq, seq, dtype=torch.bool, device=x.device).triu(1), float("-inf"))
        top = decay.amax(-1, keepdim=True)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 * (decay - top).exp()
        scale = torch.maximum(scores.sum(-1, keepdim=True).abs(), (-top).exp())
        mixed = (scores / scale @ v).transpose(1, 2).reshape(batch * seq, width)
        mixed = self.inner(mixed).view(batch, seq, width) * f.silu(self.skip(y))
        return x + self.out(mixed)


class ScalarMemory(nn.Module):
    """An sLSTM layer: exponential gates with a stabiliser, one step after the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.into, self.again = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(width, 4 * width, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = self.into(self.norm(x))
        hidden = cell = scale = x.new_zeros(x.shape[0], x.shape[2])
        level = torch.full_like(hidden, -10.0)
        steps = []
        for i in range(x.shape[1]):
            enter, forget, value, out = (given[:, i] + self.again(hidden)).chunk(4, dim=-1)
            kept = f.logsigmoid(forget) + level
            level = torch.maximum(kept, enter)
            enter, kept = (enter - level).exp(), (kept - level).exp()
            cell, scale = kept * cell + enter * value.tanh(), kept * scale + enter
            hidden = out.sigmoid() * cell / scale
            steps.append(hidden)
        return x + torch.stack(steps, 1)


def xlstm() -> Case:
    """Matrix and scalar memories in turn; the batch dynamic (the scalar one is unrolled)."""
    module = nn.Sequential(MatrixMemory(32, 4), ScalarMemory(32), MatrixMemory(32, 4))
    return plain(module, lambda batch=2: (torch.randn(batch, 7, 32),), [BATCH], (3,))


def matrix_memory() -> Case:
    """Matrix memories alone: batch and length dynamic."""
    module = nn.Sequential(MatrixMemory(32, 4), MatrixMemory(32, 4))
    return plain(module, lambda batch=2, seq=7: (torch.randn(batch, seq, 32),), [BATCH_SEQ], (3, 11))


class Recurrent(nn.Module):
    """Embedding, one kind of recurrent layer both ways, a tag for each token."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(97, 24)
        self.layers = kind(24, 20, num_layers=layers, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(40, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.tag(self.layers(self.words(tokens))[0])


def tagger(kind: type[nn.RNNBase]) -> Case:
    """Batch and length dynamic."""
    return plain(Recurrent(kind), lambda batch=2, seq=11: (ids(batch, seq),), [BATCH_SEQ], (3, 7))


class Translator(nn.Module):
    """LSTM encoder and decoder with additive attention (Bahdanau et al. 2015), the target unrolled."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(97, width), nn.LSTM(width, width, batch_first=True)
        self.cell, self.query, self.key = (
            nn.LSTMCell(2 * width, width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.score, self.out = nn.Linear(width, 1), nn.Linear(2 * width, 97)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory, (hidden, cell) = self.encoder(self.words(source))
        hidden, cell, steps = hidden[0], cell[0], []
        for i in range(target.shape[1]):
            weights = self.score((self.query(hidden)[:, None] + self.key(memory)).tanh()).softmax(1)
            context = (weights * memory).sum(1)
            hidden, cell = self.cell(torch.cat([self.words(target[:, i]), context], -1), (hidden, cell))
            steps.append(self.out(torch.cat([hidden, context], -1)))
        return torch.stack(steps, 1)


def translator() -> Case:
    """Batch and source length dynamic."""
    return plain(Translator(), lambda batch=2, seq=9: (ids(batch, seq), ids(batch, 4)), [BATCH_SEQ, BATCH], (3, 6))


FAMILIES: dict[str, Builder] = {
    "Mamba": partial(language, "MambaForCausalLM", "MambaConfig", state_size=8, expand=2),
    "Mamba 2": partial(
        language,
        "Mamba2ForCausalLM",
        "Mamba2Config",
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=4,
        expand=2,
    ),
    "Falcon Mamba": partial(language, "FalconMambaForCausalLM", "FalconMambaConfig", state_size=8),
    "RWKV": partial(
        language, "RwkvForCausalLM", "RwkvConfig", attention_hidden_size=32, context_length=16, rescale_every=0
    ),
    "RecurrentGemma": partial(
        language,
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        num_attention_heads=4,
        lru_width=32,
        attention_window_size=4,
        intermediate_size=48,
        block_types=["recurrent", "attention"],
    ),
    "xLSTM (plain)": xlstm,
    "mLSTM (plain)": matrix_memory,
    "bidirectional LSTM tagger (plain)": partial(tagger, nn.LSTM),
    "bidirectional GRU tagger (plain)": partial(tagger, nn.GRU),
    "bidirectional RNN tagger (plain)": partial(tagger, nn.RNN),
    "LSTM translator with attention (plain)": translator,
}
