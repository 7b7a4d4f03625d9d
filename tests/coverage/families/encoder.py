"""Text encoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers as hf

from tests.coverage.case import TEXT_SIZES, Builder, Case, hugging, text

KIND = "encoder"
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def encoder(model: str, config: str, **options: Any) -> Case:
    """A model without a head, batch and length dynamic."""
    sizes = {**SMALL, **options} if "dim" not in options else options
    return hugging(getattr(hf, model)(getattr(hf, config)(**sizes)), text, dynamic=TEXT_SIZES, other=(3, 7))


FAMILIES: dict[str, Builder] = {
    "BERT": partial(encoder, "BertModel", "BertConfig"),
    "RoBERTa": partial(encoder, "RobertaModel", "RobertaConfig"),
    "DistilBERT": partial(
        encoder,
        "DistilBertModel",
        "DistilBertConfig",
        vocab_size=97,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=64,
    ),
    "ALBERT": partial(encoder, "AlbertModel", "AlbertConfig", embedding_size=16),
    "DeBERTa-v2": partial(
        encoder,
        "DebertaV2Model",
        "DebertaV2Config",
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        conv_kernel_size=3,
    ),
    "ELECTRA": partial(encoder, "ElectraModel", "ElectraConfig", embedding_size=16),
    "MPNet": partial(encoder, "MPNetModel", "MPNetConfig"),
    "ModernBERT": partial(
        encoder, "ModernBertModel", "ModernBertConfig", local_attention=6, global_attn_every_n_layers=2, pad_token_id=0
    ),
}
