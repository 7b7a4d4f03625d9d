"""Decoders of the transformers package with tiny random weights: routed experts and shared heads, natively."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

import runtime
from backends.native.library import counters
from compiler.frontends.torch import load
from compiler.kernels import AttentionSpec, GemmSpec, HostCall, Lowered, MoveSpec
from compiler.pipeline import lower_graph

VOCABULARY = 61
TINY = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 3,
          "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
          "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {}, "Mixtral": LOCAL, "GptOss": {**LOCAL, "head_dim": 8, "sliding_window": 4},
    "Qwen2Moe": {**EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    "Qwen3Moe": {**EXPERTS, "moe_intermediate_size": 24, "head_dim": 8}, "Olmoe": EXPERTS,
    "DeepseekV2": {**LATENT, "topk_method": "group_limited_greedy"}, "DeepseekV3": LATENT,
}  # fmt: skip
SIZES = ((2, 7), (1, 1), (3, 11), (1, 5), (2, 16))
DYNAMIC = {"ids": {0: "batch", 1: "seq"}}


class Logits(torch.nn.Module):
    """A causal language model as a function of its tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, use_cache=False).logits


def build(family: str, experts: str | None = None, attention: str = "eager") -> tuple[Logits, Logits]:
    """A model, and the same in float64 with transformers' plainest code."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = getattr(hf, f"{family}Config")(**{**TINY, **FAMILIES[family]}, attn_implementation=attention)
        model = getattr(hf, f"{family}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=0.0 if parameter.dim() > 1 else 1.0, std=0.2)
    exact = copy.deepcopy(model).double()
    if experts is not None:
        exact.set_experts_implementation("eager")
        model.set_experts_implementation(experts)
    return Logits(model), Logits(exact)


def tokens(batch: int, seq: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, seq), generator=torch.Generator().manual_seed(seed))


def check(family: str, experts: str | None) -> None:
    model, exact = build(family, experts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = runtime.compile(model, (tokens(2, 7),), dynamic_shapes=DYNAMIC)
    compiled = counters.compiled + counters.cached
    for seed, (batch, seq) in enumerate((*SIZES, *SIZES)):
        ids = tokens(batch, seq, seed)  # other tokens are routed otherwise
        with torch.no_grad():
            expected = exact(ids).numpy()
        found = np.asarray(program(ids))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert program.statistics().plans == len(SIZES)
    assert counters.compiled + counters.cached == compiled
    assert not [row for row in program.ledger() if row.unit == "host"]
    assert "cuts: none" in program.explain()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Mixtral", "GptOss"])
def test_experts_of_any_routing_run_through_one_program(family: str) -> None:
    check(family, "grouped_mm")


@pytest.mark.slow
@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm"])
@pytest.mark.parametrize("family", ["Mixtral", "GptOss", "Qwen2Moe", "Qwen3Moe", "Olmoe", "DeepseekV2", "DeepseekV3"])
def test_every_family_of_experts(family: str, experts: str) -> None:
    check(family, experts)


def lowered(model: Logits) -> Lowered:
    return lower_graph(load(model, (tokens(2, 7),), DYNAMIC).graph)


def test_experts_are_grouped_products() -> None:
    program = lowered(build("Mixtral", "grouped_mm")[0])
    grouped = [c for c in program.calls if not isinstance(c, HostCall) and isinstance(c.spec, GemmSpec) and c.spec.ends]
    # Up and down of each layer; their weights, transposed, are packed ahead.
    assert len(grouped) == 4 and all(call.spec.constant_b for call in grouped)


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def test_shared_heads_are_not_repeated_in_memory(attention: str) -> None:
    calls = [c for c in lowered(build("Llama", attention=attention)[0]).calls if not isinstance(c, HostCall)]
    products = [call for call in calls if isinstance(call.spec, AttentionSpec)]
    assert len(products) == TINY["num_hidden_layers"]
    for call in products:
        # [batch, heads of keys, queries of each, length, head size]: the second but one repeats.
        assert [view.strides[2] for view in call.reads[1:3]] == [0, 0] and call.reads[0].strides[2] != 0
    copies = [call.reads[0] for call in calls if isinstance(call.spec, MoveSpec) and call.spec.kind == "copy"]
    assert not [view for view in copies if len(view.shape) > 2 and 0 in view.strides]
