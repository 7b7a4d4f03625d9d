"""Image networks in plain torch, as torchvision has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH, Builder, Case, Tensors, plain

KIND = "image networks in plain torch"


def images(batch: int = 2, size: int = 32, channels: int = 3) -> Tensors:
    """Images [batch, channels, size, size]."""
    return (torch.randn(batch, channels, size, size),)


def convolution(channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, SiLU."""
    inner = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(inner, nn.BatchNorm2d(out), nn.SiLU())


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a skip; `groups` as in ResNeXt."""

    def __init__(self, channels: int, width: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        self.skip = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return f.relu(self.layers(x) + self.skip(x), inplace=True)


def resnet(groups: int) -> nn.Module:
    """ResNet, or ResNeXt with more than one group."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Bottleneck(8, 8, 1, groups),
        Bottleneck(32, 12, 2, groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


def vgg() -> nn.Module:
    """Plain 3x3 convolutions, pooling, a classifier with dropout (off)."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2, 2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2, 2),
        nn.AdaptiveAvgPool2d((7, 7)), nn.Flatten(), nn.Linear(16 * 49, 32), nn.ReLU(True), nn.Dropout(),
        nn.Linear(32, 10),
    )  # fmt: skip


def alexnet() -> nn.Module:
    """Large kernels, local response norm, overlapping pools."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 24, 5, padding=2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d((3, 3)), nn.Flatten(), nn.Linear(216, 10),
    )  # fmt: skip


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * f.hardsigmoid(self.up(f.relu(self.down(f.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """Expand, depthwise, excite, project; the activation decides between MobileNetV3 and EfficientNet."""

    def __init__(self, channels: int, out: int, expand: int, kernel: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        wide = channels * expand
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide, eps=1e-3),
            act(),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False),
            nn.BatchNorm2d(wide, eps=1e-3),
            act(),
            Excite(wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out, eps=1e-3),
        )
        self.same = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.same else self.layers(x)


def mobile(act: type[nn.Module]) -> nn.Module:
    """MobileNetV3 (Hardswish) or EfficientNet (SiLU)."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), act(),
        Inverted(8, 8, 2, 3, 1, act), Inverted(8, 12, 3, 5, 2, act), Inverted(12, 12, 3, 5, 1, act),
        nn.Conv2d(12, 32, 1, bias=False), nn.BatchNorm2d(32), act(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 48), act(), nn.Linear(48, 10),
    )  # fmt: skip


class Dense(nn.Module):
    """A dense block: every layer reads all before it."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels + i * growth), nn.ReLU(), nn.Conv2d(channels + i * growth, growth, 3, padding=1)
            )
            for i in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet() -> nn.Module:
    """Dense blocks with transitions."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), Dense(8, 4, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2),
        Dense(10, 4, 3), nn.BatchNorm2d(22), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(22, 10),
    )  # fmt: skip


class Branches(nn.Module):
    """Modules side by side, their channels joined."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception() -> nn.Module:
    """Towers of kernels 1, 3, 5, 1x7 then 7x1, and pools with counted and uncounted padding."""
    tall = nn.Sequential(nn.Conv2d(12, 6, (1, 7), padding=(0, 3)), nn.Conv2d(6, 6, (7, 1), padding=(3, 0)), nn.ReLU())
    mean = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), convolution(12, 4, 1))
    return nn.Sequential(
        convolution(3, 12, 3, 2),
        Branches(convolution(12, 4, 1), convolution(12, 6), convolution(12, 6, 5), tall, mean),
        Branches(convolution(26, 8, 3, 2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(60, 10),
    )


class Shuffle(nn.Module):
    """Half the channels pass, half are worked on, then both are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(convolution(half, half, 1), convolution(half, half, 3, groups=half))
        self.mix = nn.ChannelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, worked = x.chunk(2, dim=1)
        return self.mix(torch.cat([kept, self.branch(worked)], 1))


def shufflenet() -> nn.Module:
    """ShuffleNetV2."""
    return nn.Sequential(
        convolution(3, 16, 3, 2), Shuffle(16), Shuffle(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def squeezenet() -> nn.Module:
    """Fire modules; pools that round up."""

    def fire(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, 4, 1), nn.ReLU(), Branches(nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, 1, 1))
        )

    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), fire(12), nn.ReLU(), fire(16), nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def ghost() -> nn.Module:
    """Cheap depthwise copies beside a 1x1 (GhostNet), PReLU and ReLU6."""
    return nn.Sequential(
        convolution(3, 12, 3, 2), nn.PReLU(12), Branches(convolution(12, 12, 3, groups=12), nn.Identity()), nn.ReLU6(),
        nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(24 * 64, 10), nn.Softmax(dim=-1),
    )  # fmt: skip


class Mixer(nn.Module):
    """An MLP-Mixer layer: over positions, then over channels."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(places, 24), nn.GELU(), nn.Linear(24, places))
        self.within = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.across(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.second(x))


class Patches(nn.Module):
    """Patches as a sequence, layers, the mean, a classifier."""

    def __init__(self, layers: Sequence[nn.Module], width: int = 16) -> None:
        super().__init__()
        self.enter, self.layers = nn.Conv2d(3, width, 8, 8), nn.Sequential(*layers)
        self.leave = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.layers(self.enter(x).flatten(2).transpose(1, 2)).mean(1))


def mixer() -> nn.Module:
    """MLP-Mixer on 32x32 images."""
    return Patches([Mixer(16, 16), Mixer(16, 16)])


def vision_transformer() -> nn.Module:
    """torch's own encoder layers, norm first, over patches."""
    layer = partial(nn.TransformerEncoderLayer, 16, 2, 32, batch_first=True, activation="gelu")
    return Patches([layer(norm_first=True), layer(norm_first=False)])


def classifier(build: partial[nn.Module] | object, size: int = 32) -> Case:
    """The batch dynamic."""
    assert callable(build)
    return plain(build(), partial(images, size=size), [BATCH], (3,))


FAMILIES: dict[str, Builder] = {
    "ResNet (plain)": partial(classifier, partial(resnet, 1)),
    "ResNeXt (plain)": partial(classifier, partial(resnet, 4)),
    "VGG (plain)": partial(classifier, vgg),
    "AlexNet (plain)": partial(classifier, alexnet, 80),
    "MobileNetV3 (plain)": partial(classifier, partial(mobile, nn.Hardswish)),
    "EfficientNet (plain)": partial(classifier, partial(mobile, nn.SiLU)),
    "DenseNet (plain)": partial(classifier, densenet),
    "Inception (plain)": partial(classifier, inception),
    "ShuffleNet (plain)": partial(classifier, shufflenet),
    "SqueezeNet (plain)": partial(classifier, squeezenet),
    "GhostNet-like (plain)": partial(classifier, ghost),
    "MLP-Mixer (plain)": partial(classifier, mixer),
    "torch.nn transformer over patches (plain)": partial(classifier, vision_transformer),
}
