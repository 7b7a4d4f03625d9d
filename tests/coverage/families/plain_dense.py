"""Image to image, video and sound networks in plain torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH, Builder, Case, plain

KIND = "dense networks in plain torch"


def double(channels: int, out: int) -> nn.Sequential:
    """Two convolutions with batch norms."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(True),
        nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(True),
    )  # fmt: skip


class UNet(nn.Module):
    """Down by pools, up by transposed convolutions, skips joined after padding to equal size."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([double(1, 8), double(8, 16), double(16, 32)])
        self.grow = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.up = nn.ModuleList([double(32, 16), double(16, 8)])
        self.leave = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(f.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for grow, block, skip in zip(self.grow, self.up, skips[-2::-1], strict=True):
            x = grow(x)
            x = f.pad(x, [0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]])
            x = block(torch.cat([skip, x], 1))
        return self.leave(x)


class Pyramid(nn.Module):
    """A feature pyramid: lateral 1x1s, coarse levels added to finer ones, a shared head."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 8), (8, 16), (16, 32)))
        self.side = nn.ModuleList(nn.Conv2d(a, 16, 1) for a in (8, 16, 32))
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 6, 3, padding=1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        levels = []
        for down, side in zip(self.down, self.side, strict=True):
            x = f.relu(down(x))
            levels.append(side(x))
        for fine in (1, 0):
            levels[fine] = levels[fine] + f.interpolate(levels[fine + 1], size=levels[fine].shape[-2:], mode="nearest")
        return tuple(self.head(level) for level in levels)


class Yolo(nn.Module):
    """A one-stage detector's neck and decoding: spatial pyramid pooling, grid offsets, boxes of two levels."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.join, self.up = nn.Conv2d(64, 16, 1), nn.Conv2d(16, 8, 1)
        self.heads = nn.ModuleList([nn.Conv2d(16, 5 + classes, 1), nn.Conv2d(16, 5 + classes, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = f.silu(self.stem(x))
        deep = f.silu(self.deep(early))
        pools = [deep]
        for _ in range(3):
            pools.append(f.max_pool2d(pools[-1], 5, 1, 2))
        deep = f.silu(self.join(torch.cat(pools, 1)))
        fine = torch.cat([early, f.interpolate(self.up(deep), scale_factor=2.0)], 1)
        boxes = []
        for head, level, stride in zip(self.heads, (fine, deep), (4, 8), strict=True):
            y = head(level).permute(0, 2, 3, 1).sigmoid()
            rows, columns = y.shape[1:3]
            grid = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1)
            centre = (y[..., :2] * 2 - 0.5 + grid) * stride
            size = (y[..., 2:4] * 2) ** 2 * stride
            boxes.append(torch.cat([centre, size, y[..., 4:]], -1).flatten(1, 2))
        return torch.cat(boxes, 1)


def video() -> nn.Module:
    """3-d convolutions over time and space, one of them factored."""
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(8, 16, (3, 1, 1), padding=(1, 0, 0)), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 7),
    )  # fmt: skip


class WaveNet(nn.Module):
    """Gated, causal, dilated convolutions with skips."""

    def __init__(self, width: int = 12, layers: int = 4) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(layers))
        self.both = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(layers))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, total = self.enter(x), torch.zeros(())
        for i, (gate, both) in enumerate(zip(self.gates, self.both, strict=True)):
            value, open_ = gate(f.pad(x, (2**i, 0))).chunk(2, dim=1)
            kept, skip = both(value.tanh() * open_.sigmoid()).chunk(2, dim=1)
            x, total = x + kept, total + skip
        return self.leave(total)


class Temporal(nn.Module):
    """A TCN block: weight-normed causal convolutions around a skip."""

    def __init__(self, channels: int, out: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.first, self.second = (
            nn.utils.parametrizations.weight_norm(nn.Conv1d(n, out, 3, padding=self.cut, dilation=dilation))
            for n in (channels, out)
        )
        self.skip = nn.Conv1d(channels, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = f.relu(self.first(x)[:, :, : -self.cut])
        y = f.relu(self.second(y)[:, :, : -self.cut])
        return f.relu(y + self.skip(x))


class Crnn(nn.Module):
    """Convolutions, columns as a sequence, bidirectional LSTM, log-probabilities for CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.read, self.tag = nn.LSTM(16 * 4, 20, bidirectional=True), nn.Linear(40, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.look(x).flatten(1, 2).permute(2, 0, 1)
        return self.tag(self.read(y)[0]).log_softmax(-1)


def generator() -> nn.Module:
    """DCGAN's generator: noise to image by transposed convolutions."""
    return nn.Sequential(
        nn.ConvTranspose2d(20, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Module:
    """Strided convolutions with spectral and instance norms."""
    return nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, 2, 1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4),
    )  # fmt: skip


def super_resolution() -> nn.Module:
    """Sub-pixel convolution after reflection padding."""
    return nn.Sequential(
        nn.ReflectionPad2d(2), nn.Conv2d(3, 16, 5), nn.Tanh(), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2),
        nn.PixelUnshuffle(2), nn.ReplicationPad2d(1), nn.Conv2d(12, 27, 3), nn.PixelShuffle(3),
    )  # fmt: skip


class Style(nn.Module):
    """Adaptive instance norm: one image's statistics on another's features, grown bicubically."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 12, 3), nn.ReLU(), nn.AvgPool2d(2))
        self.draw = nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        x, y = self.look(content), self.look(style)
        spread, mean = torch.std_mean(y, dim=(2, 3), keepdim=True)
        x = f.instance_norm(x, eps=1e-4) * spread + mean
        return self.draw(f.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False))


class SpatialTransformer(nn.Module):
    """A network that turns and moves its input by an affine grid (Jaderberg et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.find = nn.Sequential(
            nn.Conv2d(1, 4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 6)
        )
        self.judge = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = 0.2 * self.find(x).view(-1, 2, 3) + torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        return self.judge(f.grid_sample(x, f.affine_grid(theta, x.shape, align_corners=False), align_corners=False))


def square(module: type[nn.Module], channels: int, size: int = 24) -> Case:
    """Batch, height and width dynamic, the latter in multiples of 8."""
    height, width = (8 * torch.export.Dim(name, min=2, max=256) for name in ("rows", "columns"))
    return plain(
        module(),
        lambda batch=2, height=size, width=size + 8: (torch.randn(batch, channels, height, width),),
        [{0: "batch", 2: height, 3: width}],
        (3, size + 8, size),
    )


def fixed(build: object, *shape: int) -> Case:
    """The batch dynamic."""
    assert callable(build)
    return plain(build(), lambda batch=2: (torch.randn(batch, *shape),), [BATCH], (3,))


def signal(module: nn.Module, channels: int) -> Case:
    """Batch and length dynamic."""
    return plain(
        module, lambda batch=2, length=31: (torch.randn(batch, channels, length),), [{0: "batch", 2: "length"}], (3, 17)
    )


FAMILIES: dict[str, Builder] = {
    "U-Net (plain)": partial(square, UNet, 1),
    "feature pyramid (plain)": partial(square, Pyramid, 3),
    "YOLO-like (plain)": partial(fixed, Yolo, 3, 32, 32),
    "3-d convolutions (plain)": partial(fixed, video, 2, 6, 16, 16),
    "WaveNet (plain)": lambda: signal(WaveNet(), 1),
    "TCN (plain)": lambda: signal(nn.Sequential(Temporal(3, 8, 1), Temporal(8, 8, 2)), 3),
    "CRNN (plain)": partial(fixed, Crnn, 1, 16, 40),
    "DCGAN generator (plain)": partial(fixed, generator, 20, 1, 1),
    "patch discriminator (plain)": partial(fixed, discriminator, 3, 32, 32),
    "super resolution (plain)": partial(fixed, super_resolution, 3, 12, 12),
    "style transfer (plain)": lambda: plain(
        Style(), lambda batch=2: (torch.randn(batch, 3, 16, 16), torch.randn(batch, 3, 20, 20)), [BATCH, BATCH], (3,)
    ),
    "spatial transformer (plain)": partial(fixed, SpatialTransformer, 1, 20, 20),
}
