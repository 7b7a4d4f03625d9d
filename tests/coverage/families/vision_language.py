"""Models of images and text together."""

from __future__ import annotations

from functools import partial

import torch
import transformers as hf

from tests.coverage.case import BATCH, BATCH_SEQ, Builder, Case, hugging, ids, mask, text
from tests.coverage.families.decoder import SMALL as LLAMA
from tests.coverage.families.vision import VIT

KIND = "vision-language"
TEXT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PAIR = {"input_ids": BATCH_SEQ, "attention_mask": BATCH_SEQ, "pixel_values": {0: "images"}}


def pair(batch: int = 2, seq: int = 9, images: int = 2) -> dict[str, torch.Tensor]:
    """Sentences and images."""
    return {**text(batch, seq), "pixel_values": torch.randn(images, 3, 32, 32)}


def contrastive(model: str, config: str) -> Case:
    """Images against sentences: the matrix of likenesses; batches and length dynamic."""
    made = getattr(hf, config)(text_config=TEXT, vision_config=VIT, projection_dim=16)
    outputs = ("logits_per_image", "text_embeds", "image_embeds")
    return hugging(getattr(hf, model)(made), pair, outputs, dynamic=PAIR, other=(3, 7, 4))


def blip() -> Case:
    """A caption's logits from an image."""
    config = hf.BlipConfig(text_config={**TEXT, "encoder_hidden_size": 32}, vision_config=VIT, projection_dim=16)
    sizes = {"pixel_values": BATCH, "input_ids": BATCH_SEQ}

    def inputs(batch: int = 2, seq: int = 9) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(batch, 3, 32, 32), "input_ids": ids(batch, seq)}

    return hugging(hf.BlipForConditionalGeneration(config), inputs, "logits", dynamic=sizes, other=(3, 7))


def llava() -> Case:
    """A Llama that reads an image's patches in place of marked tokens; sizes fixed, as the marks are data."""
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VIT),
        text_config=hf.LlamaConfig(**LLAMA),
        image_token_id=96,
        vision_feature_layer=-1,
    )

    def inputs() -> dict[str, torch.Tensor]:
        tokens = ids(1, 24, vocabulary=96)
        tokens[:, 2:18] = 96
        return {
            "input_ids": tokens,
            "pixel_values": torch.randn(1, 3, 32, 32),
            "attention_mask": torch.ones_like(tokens),
        }

    return hugging(hf.LlavaForConditionalGeneration(config), inputs, "logits", use_cache=False)


def vilt() -> Case:
    """Patches and words in one encoder."""
    config = hf.ViltConfig(**{**TEXT, **VIT, "max_position_embeddings": 16}, max_image_length=-1)

    def inputs(batch: int = 2, seq: int = 9) -> dict[str, torch.Tensor]:
        return {
            "input_ids": ids(batch, seq),
            "attention_mask": mask(batch, seq),
            "pixel_values": torch.randn(batch, 3, 32, 32),
            "pixel_mask": torch.ones(batch, 32, 32, dtype=torch.long),
        }

    return hugging(hf.ViltModel(config), inputs)


def blip2() -> Case:
    """A querying transformer between image and text."""
    config = hf.Blip2QFormerConfig(**{**TEXT, "encoder_hidden_size": 24, "cross_attention_frequency": 2})

    def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
        return {"query_embeds": torch.randn(batch, 5, 32), "encoder_hidden_states": torch.randn(batch, 17, 24)}

    sizes = {"query_embeds": BATCH, "encoder_hidden_states": BATCH}
    return hugging(hf.Blip2QFormerModel(config), inputs, dynamic=sizes, other=(3,))


FAMILIES: dict[str, Builder] = {
    "CLIP": partial(contrastive, "CLIPModel", "CLIPConfig"),
    "SigLIP": partial(contrastive, "SiglipModel", "SiglipConfig"),
    "BLIP": blip,
    "BLIP-2 Q-Former": blip2,
    "LLaVA": llava,
    "ViLT": vilt,
}
