"""Diffusion: the noise predictor and the image codec, written here."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH, Builder, Case, plain

KIND = "diffusion"
GROUPS = 4


def time_embedding(steps: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines [batch, width] of time steps [batch] at geometrically spaced frequencies."""
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(width // 2, device=steps.device) / (width // 2))
    angles = steps[:, None].to(frequencies.dtype) * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class Residual(nn.Module):
    """Two normed convolutions around an optional shift by the time embedding."""

    def __init__(self, channels: int, out: int, time: int = 0) -> None:
        super().__init__()
        self.first, self.second = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, out)
        self.enter, self.leave = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.shift = nn.Linear(time, 2 * out) if time else None
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        y = self.second(self.enter(f.silu(self.first(x))))
        if self.shift is not None and time is not None:
            scale, shift = self.shift(f.silu(time))[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return self.skip(x) + self.leave(f.silu(y))


class Attention(nn.Module):
    """Self-attention over positions, then cross-attention to a text where there is one."""

    def __init__(self, channels: int, heads: int = 2, text: int = 0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.own = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.cross = nn.MultiheadAttention(channels, heads, kdim=text, vdim=text, batch_first=True) if text else None
        self.middle = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels, 4 * channels)
        self.out = nn.Linear(2 * channels, channels)

    def forward(self, x: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        y = self.norm(x).flatten(2).transpose(1, 2)
        y = y + self.own(y, y, y, need_weights=False)[0]
        if self.cross is not None:
            y = y + self.cross(self.middle(y), text, text, need_weights=False)[0]
        value, gate = self.gate(y).chunk(2, dim=-1)
        y = y + self.out(value * f.gelu(gate))
        return x + y.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """Two levels down and up with skips, attention below, conditioned on time and text."""

    def __init__(self, width: int = 16, time: int = 32, text: int = 24) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.down = nn.ModuleList([Residual(width, width, time), Residual(width, 2 * width, time)])
        self.shrink = nn.ModuleList(nn.Conv2d(n, n, 3, stride=2, padding=1) for n in (width, 2 * width))
        self.low, self.attend = Residual(2 * width, 2 * width, time), Attention(2 * width, text=text)
        self.up = nn.ModuleList([Residual(4 * width, width, time), Residual(2 * width, width, time)])
        self.grow = nn.ModuleList(nn.Conv2d(n, n, 3, padding=1) for n in (2 * width, width))
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: torch.Tensor, steps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        time = self.time(time_embedding(steps, self.width))
        x, skips = self.enter(x), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, time)
            skips.append(x)
            x = shrink(x)
        x = self.attend(self.low(x, time), text)
        for block, grow in zip(self.up, self.grow, strict=True):
            x = grow(f.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = block(torch.cat([x, skips.pop()], 1), time)
        return self.leave(x)


class Codec(nn.Module):
    """A variational autoencoder: image to mean and spread, a given noise, and back."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            Residual(width, width),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(width, 2 * width, 3, stride=2),
            Residual(2 * width, 2 * width),
            Attention(2 * width, heads=1),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 8, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 2 * width, 3, padding=1),
            Attention(2 * width, heads=1),
            Residual(2 * width, width),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, image: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = self.encoder(image).chunk(2, dim=1)
        latent = mean + noise * (0.5 * spread.clamp(-30.0, 20.0)).exp()
        return self.decoder(latent), latent


class TransformerBlock(nn.Module):
    """A diffusion transformer's block: norms scaled and shifted by the condition (adaLN, Peebles and Xie 2023)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.condition = nn.Linear(width, 6 * width)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.condition(f.silu(condition))[:, None].chunk(6, dim=-1)
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attend(y, y, y, need_weights=False)[0]
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


class Transformer(nn.Module):
    """DiT: patches of the latent in, patches of the noise out."""

    def __init__(self, width: int = 32, patch: int = 2, size: int = 16) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.enter = nn.Conv2d(4, width, patch, stride=patch)
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2, width))
        self.labels = nn.Embedding(10, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, 4) for _ in range(2))
        self.leave = nn.Linear(width, patch * patch * 4)

    def forward(self, x: torch.Tensor, steps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        batch, channels, rows, columns = x.shape
        p = self.patch
        condition = self.time(time_embedding(steps, self.width)) + self.labels(labels)
        y = self.enter(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            y = block(y, condition)
        y = self.leave(y).view(batch, rows // p, columns // p, p, p, channels)
        return torch.einsum("nhwpqc->nchpwq", y).reshape(batch, channels, rows, columns)


def unet() -> Case:
    """Batch and text length dynamic."""
    return plain(
        UNet(),
        lambda batch=2, words=5: (
            torch.randn(batch, 4, 16, 16),
            torch.randint(0, 1000, (batch,)),
            torch.randn(batch, words, 24),
        ),
        [BATCH, BATCH, {0: "batch", 1: "words"}],
        (3, 8),
    )


def codec() -> Case:
    """The batch dynamic."""
    return plain(
        Codec(), lambda batch=2: (torch.randn(batch, 3, 16, 16), torch.randn(batch, 4, 8, 8)), [BATCH, BATCH], (3,)
    )


def transformer() -> Case:
    """The batch dynamic."""
    return plain(
        Transformer(),
        lambda batch=2: (
            torch.randn(batch, 4, 16, 16),
            torch.randint(0, 1000, (batch,)),
            torch.randint(0, 10, (batch,)),
        ),
        [BATCH, BATCH, BATCH],
        (3,),
    )


FAMILIES: dict[str, Builder] = {
    "diffusion UNet (plain)": unet,
    "diffusion VAE (plain)": codec,
    "DiT (plain)": transformer,
}
