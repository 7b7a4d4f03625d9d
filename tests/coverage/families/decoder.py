"""Causal language models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.coverage.case import BATCH, TEXT_SIZES, Builder, Case, Tensors, hugging, ids, plain, text

KIND = "decoder"
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8}


def decoder(name: str, without: tuple[str, ...] = (), config: str = "", **options: Any) -> Case:
    """A model with its language head, batch and length dynamic; `without` names usual options it does not have."""
    sizes = {**{key: value for key, value in SMALL.items() if key not in without}, **options}
    model = getattr(hf, f"{name}ForCausalLM" if not name.endswith("Model") else name)
    return hugging(
        model(getattr(hf, f"{config or name}Config")(**sizes)),
        text,
        "logits",
        dynamic=TEXT_SIZES,
        other=(3, 7),
        use_cache=False,
    )


class CachedStep(nn.Module):
    """A decoder's next tokens given the keys and values of those before, which it answers extended."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """tokens [batch, new]; keys and values [layers, batch, heads, past, head size]."""
        cache = hf.DynamicCache()
        for layer in range(keys.shape[0]):
            cache.update(keys[layer], values[layer], layer)
        logits = self.model(input_ids=tokens, past_key_values=cache, use_cache=True).logits
        return (
            logits,
            torch.stack([layer.keys for layer in cache.layers]),
            torch.stack([layer.values for layer in cache.layers]),
        )


def cached_step(name: str, heads: int, **options: Any) -> Case:
    """Batch and the number of tokens before dynamic, one new token."""
    config = getattr(hf, f"{name}Config")(**{**SMALL, **options})
    model = getattr(hf, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(config)

    def inputs(batch: int = 2, past: int = 7) -> Tensors:
        held = (2, batch, heads, past, 8)
        return ids(batch, 1), torch.randn(held), torch.randn(held)

    held = {1: "batch", 3: "past"}
    return plain(CachedStep(model), inputs, [BATCH, held, held], (3, 12))


FAMILIES: dict[str, Builder] = {
    "GPT-2": partial(decoder, "GPT2LMHeadModel", ("intermediate_size",), config="GPT2"),
    "GPT-2 (cached step)": partial(cached_step, "GPT2", 4),
    "GPT-NeoX": partial(decoder, "GPTNeoX"),
    "Llama": partial(decoder, "Llama", **GROUPED),
    "Llama (cached step)": partial(cached_step, "Llama", 2, **GROUPED),
    "Mistral": partial(decoder, "Mistral", sliding_window=5, **GROUPED),
    "Qwen2": partial(decoder, "Qwen2", **GROUPED),
    "Qwen3": partial(decoder, "Qwen3", head_dim=8, **GROUPED),
    "Gemma": partial(decoder, "Gemma", **GEMMA),
    "Gemma 2": partial(decoder, "Gemma2", sliding_window=5, **GEMMA),
    "Gemma 3": partial(decoder, "Gemma3", config="Gemma3Text", sliding_window=5, **GEMMA),
    "Phi": partial(decoder, "Phi"),
    "Falcon": partial(decoder, "Falcon", ("intermediate_size",)),
    "Falcon (ALiBi)": partial(decoder, "Falcon", ("intermediate_size",), alibi=True),
    "OPT": partial(decoder, "OPT", ("intermediate_size",), ffn_dim=48, word_embed_proj_dim=16),
    "Bloom": partial(decoder, "Bloom", ("intermediate_size", "max_position_embeddings")),
    "StarCoder2": partial(decoder, "Starcoder2", sliding_window=5, **GROUPED),
    "OLMo2": partial(decoder, "Olmo2", **GROUPED),
    "SmolLM3": partial(decoder, "SmolLM3", no_rope_layers=[1, 0], **GROUPED),
}
