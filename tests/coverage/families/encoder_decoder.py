"""Sequence to sequence models: both halves in one call, the decoder's tokens given."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers as hf

from tests.coverage.case import BATCH_SEQ, TEXT_SIZES, Builder, Case, hugging, ids, text

KIND = "encoder-decoder"
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
BART = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    **TOKENS,
}
SIZES = {**TEXT_SIZES, "decoder_input_ids": {0: "batch", 1: "target"}}


def both_texts(batch: int = 2, seq: int = 11, target: int = 7) -> dict[str, torch.Tensor]:
    """Source ids and mask, target ids."""
    return {**text(batch, seq), "decoder_input_ids": ids(batch, target)}


def text_to_text(model: str, config: str, **options: Any) -> Case:
    """A translation or summary model; batch and both lengths dynamic."""
    made = getattr(hf, model)(getattr(hf, config)(**options))
    return hugging(made, both_texts, "logits", dynamic=SIZES, other=(3, 8, 5), use_cache=False)


def whisper() -> Case:
    """Mel frames to text, its length and the batch dynamic (frames are 2 x max_source_positions by construction)."""
    config = hf.WhisperConfig(
        **{key: value for key, value in BART.items() if key != "max_position_embeddings"},
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=32,
        begin_suppress_tokens=None,
    )

    def inputs(batch: int = 2, target: int = 7) -> dict[str, torch.Tensor]:
        return {"input_features": torch.randn(batch, 16, 40), "decoder_input_ids": ids(batch, target)}

    sizes = {"input_features": {0: "batch"}, "decoder_input_ids": BATCH_SEQ}
    return hugging(
        hf.WhisperForConditionalGeneration(config), inputs, "logits", dynamic=sizes, other=(3, 5), use_cache=False
    )


T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, **TOKENS}

FAMILIES: dict[str, Builder] = {
    "T5": partial(text_to_text, "T5ForConditionalGeneration", "T5Config", **T5),
    "T5 (gated)": partial(text_to_text, "T5ForConditionalGeneration", "T5Config", feed_forward_proj="gated-gelu", **T5),
    "BART": partial(text_to_text, "BartForConditionalGeneration", "BartConfig", **BART),
    "Marian": partial(text_to_text, "MarianMTModel", "MarianConfig", **BART),
    "Pegasus": partial(text_to_text, "PegasusForConditionalGeneration", "PegasusConfig", **BART),
    "M2M100": partial(text_to_text, "M2M100ForConditionalGeneration", "M2M100Config", **BART),
    "Whisper": whisper,
}
