"""Mixtures of experts."""

from __future__ import annotations

from functools import partial

import transformers as hf

from tests.coverage.case import Builder, Case, hugging
from tests.coverage.families.decoder import GROUPED, decoder
from tests.coverage.families.encoder_decoder import SIZES, T5, both_texts

KIND = "mixture of experts"


def switch() -> Case:
    """T5 whose every second layer sends each token to one expert."""
    config = hf.SwitchTransformersConfig(
        **T5, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=4, expert_capacity=16
    )
    model = hf.SwitchTransformersForConditionalGeneration(config)
    return hugging(model, both_texts, "logits", dynamic=SIZES, other=(3, 8, 5), use_cache=False)


FAMILIES: dict[str, Builder] = {
    "Mixtral": partial(decoder, "Mixtral", num_local_experts=4, **GROUPED),
    "Qwen2-MoE": partial(
        decoder,
        "Qwen2Moe",
        num_experts=4,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
        num_experts_per_tok=2,
        **GROUPED,
    ),
    "Qwen3-MoE": partial(
        decoder, "Qwen3Moe", num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2, head_dim=8, **GROUPED
    ),
    "OLMoE": partial(decoder, "Olmoe", num_experts=4, num_experts_per_tok=2, **GROUPED),
    "Switch Transformers": switch,
    "DeepSeek-V3": partial(
        decoder,
        "DeepseekV3",
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "gpt-oss": partial(
        decoder,
        "GptOss",
        num_local_experts=4,
        num_experts_per_tok=2,
        head_dim=8,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        **GROUPED,
    ),
}
