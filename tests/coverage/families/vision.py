"""Image classifiers and backbones."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers as hf

from tests.coverage.case import BATCH, Builder, Case, hugging, image

KIND = "vision"
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def classifier(name: str, size: int = 32, output: str = "logits", **options: Any) -> Case:
    """A classifier of square images, the batch dynamic."""
    model = name if name.endswith("Model") else f"{name}ForImageClassification"
    config = getattr(hf, f"{name.removesuffix('Model')}Config")(**options, num_labels=7)
    return hugging(getattr(hf, model)(config), image(size), output, dynamic={"pixel_values": BATCH}, other=(3,))


SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}

FAMILIES: dict[str, Builder] = {
    "ViT": partial(classifier, "ViT", **VIT),
    "DeiT": partial(classifier, "DeiT", **VIT),
    "BEiT": partial(classifier, "Beit", use_relative_position_bias=True, **VIT),
    "Dinov2": partial(classifier, "Dinov2", **{**VIT, "patch_size": 4}),
    "Swin": partial(classifier, "Swin", **SWIN),
    "Swinv2": partial(classifier, "Swinv2", **SWIN),
    "Hiera": partial(
        classifier,
        "Hiera",
        size=64,
        image_size=[64, 64],
        embed_dim=16,
        depths=[1, 2, 2, 1],
        num_heads=[1, 2, 4, 8],
    ),
    "ConvNeXt": partial(classifier, "ConvNext", **STAGES),
    "ConvNeXt V2": partial(classifier, "ConvNextV2", **STAGES),
    "ResNet": partial(classifier, "ResNet", embedding_size=8, **STAGES),
    "RegNet": partial(classifier, "RegNet", embedding_size=8, groups_width=4, **STAGES),
    "MobileNetV1": partial(classifier, "MobileNetV1", depth_multiplier=0.25, image_size=32),
    "MobileNetV2": partial(classifier, "MobileNetV2", depth_multiplier=0.25, image_size=32),
    "EfficientNet": partial(
        classifier,
        "EfficientNet",
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    "MobileViT": partial(
        classifier,
        "MobileViT",
        size=64,
        image_size=64,
        hidden_sizes=[16, 20, 24],
        neck_hidden_sizes=[8, 8, 12, 12, 16, 16, 32],
    ),
    "MobileViT V2": partial(classifier, "MobileViTV2", size=64, image_size=64, width_multiplier=0.25),
    "PVT": partial(
        classifier,
        "Pvt",
        size=64,
        image_size=64,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
    ),
    "PVT V2": partial(
        classifier,
        "PvtV2",
        size=64,
        image_size=64,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
    ),
    "PoolFormer": partial(classifier, "PoolFormer", **STAGES),
    "LeViT": partial(
        classifier,
        "Levit",
        size=64,
        image_size=64,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[1, 2, 3],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    "CvT": partial(
        classifier,
        "Cvt",
        embed_dim=[8, 16, 24],
        num_heads=[1, 2, 3],
        depth=[1, 2, 3],
        drop_rate=[0.0, 0.0, 0.0],
    ),
    "FocalNet": partial(classifier, "FocalNet", image_size=32, patch_size=2, embed_dim=16, depths=[1, 1]),
    "EfficientFormer-like (SwiftFormer)": partial(
        classifier, "SwiftFormer", size=64, depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32]
    ),
    "BiT": partial(
        classifier, "Bit", size=64, embedding_size=16, num_groups=2, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]
    ),
    "DINOv3 ViT": partial(classifier, "DINOv3ViTModel", output="last_hidden_state", **VIT),
    "DINOv3 ConvNeXt": partial(classifier, "DINOv3ConvNextModel", output="last_hidden_state", **STAGES),
    "ViT-MSN": partial(classifier, "ViTMSN", **VIT),
}
