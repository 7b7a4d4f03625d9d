"""A small convolutional network trained here on the handwritten digits in scikit-learn (UCI, 1797 images of 8 x 8)."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from models.training import reproducible

DYNAMIC = ({0: "batch"},)
TEST = 597  # images held out
EPOCHS = 12
BATCH = 48
RATE = 0.01  # the highest of the one-cycle schedule


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU. [N, channels, H, W] -> [N, out, H, W]."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions around which the input goes. [N, channels, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.second(self.first(x))) + x)


class Digits(nn.Module):
    """Grey images [N, 1, 8, 8], values 0 to 1 -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(1, 16), ConvBlock(16, 32), nn.MaxPool2d(2), Residual(32), ConvBlock(32, 64),
            nn.AdaptiveAvgPool2d((1, 1)),
        )  # fmt: skip
        self.classify = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(torch.flatten(self.features(x), 1))


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images float32 [1200, 1, 8, 8] and labels int64 [1200], then those to test with, [597, ...]: shuffled
    the same way every time, because neighbours in the set are by one writer."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    order = torch.randperm(len(bundle.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bundle.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    labels = torch.tensor(bundle.target, dtype=torch.int64)[order]
    return images[TEST:], labels[TEST:], images[:TEST], labels[:TEST]


@cache
def train() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network after EPOCHS over the training images, in eval mode, and test images [597, 1, 8, 8] and labels
    [597]. Some seconds, once a process; the same weights every time on one machine."""
    images, labels, test_images, test_labels = data()
    with reproducible(seed=0):
        model = Digits()
        steps = -(-len(images) // BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * steps)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(images)).split(BATCH):
                loss = F.cross_entropy(model(images[chosen]), labels[chosen], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval(), test_images, test_labels


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of rows of the logits [N, 10] whose greatest is the label's."""
    return (logits.argmax(1) == labels).float().mean().item()


def build(*, batch: int = 1, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The trained network and the first `batch` test images."""
    import copy

    model, images, _ = train()
    return copy.deepcopy(model).to(dtype), (images[:batch].to(dtype),)
