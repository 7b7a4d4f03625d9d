"""Mixtures of experts."""

from __future__ import annotations

from functools import partial

import torch
import transformers as hf
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH_SEQ, Builder, Case, hugging, plain
from tests.coverage.families.decoder import GROUPED, decoder
from tests.coverage.families.encoder_decoder import SIZES, T5, both_texts

KIND = "mixture of experts"


class Dispatch(nn.Module):
    """One expert for each token, of limited capacity, by products with one-hot places (Switch, Fedus et al. 2022)."""

    def __init__(self, width: int = 16, experts: int = 4, capacity: int = 4) -> None:
        super().__init__()
        self.capacity = capacity
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(0.3 * torch.randn(experts, width, 24))
        self.down = nn.Parameter(0.3 * torch.randn(experts, 24, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, chosen = self.router(x).softmax(-1).max(-1)
        one_hot = f.one_hot(chosen, self.up.shape[0])
        place = (one_hot.cumsum(1) * one_hot).sum(-1) - 1
        kept = (place < self.capacity).to(x.dtype)
        slot = f.one_hot(place.clamp(max=self.capacity - 1), self.capacity)
        sent = one_hot[..., :, None].to(x.dtype) * slot[..., None, :] * kept[..., None, None]
        queues = torch.einsum("bsec,bsd->ebcd", sent, x)
        done = torch.einsum("ebcf,efd->ebcd", f.relu(torch.einsum("ebcd,edf->ebcf", queues, self.up)), self.down)
        return x + weight[..., None] * torch.einsum("bsec,ebcd->bsd", sent, done)


def dispatch() -> Case:
    """Batch and length dynamic."""
    return plain(Dispatch(), lambda batch=2, seq=11: (torch.randn(batch, seq, 16),), [BATCH_SEQ], (3, 7))


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
    "expert dispatch by products (plain)": dispatch,
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
