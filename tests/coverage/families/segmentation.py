"""Dense prediction: segmentation and depth."""

from __future__ import annotations

import torch
import transformers as hf
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH, Builder, Case, hugging, image, plain
from tests.coverage.families.detection import backbone
from tests.coverage.families.vision import SWIN, VIT

KIND = "segmentation and depth"
PIXELS = {"pixel_values": BATCH}
MIT = {
    "num_encoder_blocks": 4,
    "depths": [1, 1, 1, 1],
    "sr_ratios": [8, 4, 2, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 3, 4],
    "decoder_hidden_size": 24,
    "num_labels": 5,
}


def segformer() -> Case:
    """Hierarchical encoder, all-MLP head."""
    model = hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**MIT))
    return hugging(model, image(64), "logits", dynamic=PIXELS, other=(3,))


def upernet() -> Case:
    """Pyramid pooling and a feature pyramid over a residual network."""
    inner = backbone("stage1", "stage2", "stage3", "stage4")
    config = hf.UperNetConfig(
        backbone_config=inner,
        hidden_size=16,
        num_labels=5,
        auxiliary_in_channels=24,
        auxiliary_channels=8,
    )
    model = hf.UperNetForSemanticSegmentation(config)
    return hugging(model, image(64), "logits", dynamic=PIXELS, other=(3,))


def mask2former() -> Case:
    """Deformable pixel decoder and masked attention over a Swin."""
    config = hf.Mask2FormerConfig(
        backbone_config=hf.SwinConfig(
            **{**SWIN, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": 64},
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=24,
        dim_feedforward=24,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=4,
        num_queries=5,
        num_labels=4,
        feature_strides=[2, 4, 8, 16],
    )
    model = hf.Mask2FormerForUniversalSegmentation(config)
    return hugging(model, image(64), ("class_queries_logits", "masks_queries_logits"))


def dpt() -> Case:
    """Depth from a ViT's layers, reassembled and fused."""
    config = hf.DPTConfig(
        **{**VIT, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    )
    return hugging(hf.DPTForDepthEstimation(config), image(32), "predicted_depth", dynamic=PIXELS, other=(3,))


def depth_anything() -> Case:
    """DPT over Dinov2."""
    inner = hf.Dinov2Config(
        **{**VIT, "patch_size": 4, "num_hidden_layers": 4},
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = hf.DepthAnythingConfig(
        backbone_config=inner,
        patch_size=4,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    return hugging(hf.DepthAnythingForDepthEstimation(config), image(32), "predicted_depth")


def glpn() -> Case:
    """Global-local path network for depth."""
    config = hf.GLPNConfig(**{k: v for k, v in MIT.items() if k != "num_labels"})
    return hugging(hf.GLPNForDepthEstimation(config), image(64), "predicted_depth", dynamic=PIXELS, other=(3,))


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: dilated convolutions side by side, and the image's mean."""

    def __init__(self, channels: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            for rate in rates
        )
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, width, 1), nn.ReLU())
        self.project = nn.Conv2d(width * (len(rates) + 1), width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = f.interpolate(self.mean(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(branch(x) for branch in self.branches), wide], 1))


class DeepLab(nn.Module):
    """DeepLab v3+: strided stem, dilated pyramid, a skip from early features, bilinear up-sampling."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.pyramid = Aspp(2 * width, width, (1, 2, 4))
        self.skip = nn.Conv2d(width, 8, 1)
        self.head = nn.Sequential(nn.Conv2d(width + 8, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.stem(x)
        deep = self.pyramid(self.deep(early))
        deep = f.interpolate(deep, size=early.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.head(torch.cat([deep, self.skip(early)], 1))
        return f.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def deeplab() -> Case:
    """Batch, height and width dynamic."""
    return plain(
        DeepLab(),
        lambda batch=2, height=32, width=40: (torch.randn(batch, 3, height, width),),
        dynamic=[{0: "batch", 2: "height", 3: "width"}],
        other=(1, 48, 36),
    )


FAMILIES: dict[str, Builder] = {
    "SegFormer": segformer,
    "UperNet": upernet,
    "Mask2Former": mask2former,
    "DPT": dpt,
    "Depth Anything": depth_anything,
    "GLPN": glpn,
    "DeepLab v3+ (plain)": deeplab,
}
