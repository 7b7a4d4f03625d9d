"""Object detectors: boxes and classes of a fixed number of queries."""

from __future__ import annotations

import torch
import transformers as hf

from tests.coverage.case import BATCH, Builder, Case, hugging, ids, image
from tests.coverage.families.vision import VIT
from tests.coverage.families.vision_language import TEXT

KIND = "detection"
BOXES = ("logits", "pred_boxes")
TRANSFORMER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 7,
    "num_labels": 5,
}


def backbone(*stages: str) -> hf.ResNetConfig:
    """A small residual network that gives these of its four stages."""
    return hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=list(stages)
    )


def detr() -> Case:
    """Detection as set prediction, the batch dynamic."""
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone("stage4"), **TRANSFORMER
    )

    def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.randn(batch, 3, 64, 64),
            "pixel_mask": torch.ones(batch, 64, 64, dtype=torch.long),
        }

    sizes = {"pixel_values": BATCH, "pixel_mask": BATCH}
    return hugging(hf.DetrForObjectDetection(config), inputs, BOXES, dynamic=sizes, other=(3,))


def conditional_detr() -> Case:
    """DETR whose queries carry reference points."""
    config = hf.ConditionalDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone("stage4"), **TRANSFORMER
    )
    return hugging(hf.ConditionalDetrForObjectDetection(config), image(64), BOXES)


def deformable_detr() -> Case:
    """Attention that samples each level at points of its own choice."""
    config = hf.DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=backbone("stage2", "stage3", "stage4"),
        **TRANSFORMER,
    )
    return hugging(hf.DeformableDetrForObjectDetection(config), image(64), BOXES)


def rt_detr() -> Case:
    """The real-time detector: hybrid encoder, query selection by score, deformable decoder."""
    inner = hf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.RTDetrConfig(
        backbone_config=inner,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 24, 32],
        feat_strides=[8, 16, 32],
        encoder_ffn_dim=48,
        encoder_attention_heads=4,
        d_model=32,
        num_queries=6,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_labels=5,
        num_denoising=0,
        anchor_image_size=[64, 64],
        initializer_range=0.2,  # with less, scores tie and the queries chosen are chance
    )
    return hugging(hf.RTDetrForObjectDetection(config), image(64), BOXES)


def yolos() -> Case:
    """A plain ViT with detection tokens."""
    config = hf.YolosConfig(
        **{**VIT, "image_size": [32, 32]}, num_detection_tokens=7, num_labels=5, use_mid_position_embeddings=False
    )
    return hugging(hf.YolosForObjectDetection(config), image(32), BOXES, dynamic={"pixel_values": BATCH}, other=(3,))


def owl_vit() -> Case:
    """Detection of what a sentence names."""
    config = hf.OwlViTConfig(text_config=TEXT, vision_config=VIT, projection_dim=32)

    def inputs() -> dict[str, torch.Tensor]:
        return {
            "input_ids": ids(4, 9),
            "pixel_values": torch.randn(2, 3, 32, 32),
            "attention_mask": torch.ones(4, 9, dtype=torch.long),
        }

    return hugging(hf.OwlViTForObjectDetection(config), inputs, BOXES)


FAMILIES: dict[str, Builder] = {
    "DETR": detr,
    "Conditional DETR": conditional_detr,
    "Deformable DETR": deformable_detr,
    "RT-DETR": rt_detr,
    "YOLOS": yolos,
    "OWL-ViT": owl_vit,
}
