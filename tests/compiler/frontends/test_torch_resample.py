"""Interpolation and sampling at a grid, against torch eager."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

import runtime
from compiler.frontends.torch import load
from compiler.op import lookup
from tests.compiler.frontends.torch_check import Each, call, check_each

torch.manual_seed(0)
IMAGE = torch.randn(2, 3, 9, 7, dtype=torch.float64)
VOLUME = torch.randn(1, 2, 4, 5, 3, dtype=torch.float64)
WIDE = torch.randn(1, 17, 5, 6, dtype=torch.float64)


def _interpolations() -> dict[str, Callable[..., torch.Tensor]]:
    wanted = {"size": (5, 13), "one": (1, 1), "double": (18, 14), "same": (9, 7)}
    by = {"scale": 1.7, "third": (1 / 3, 2.4), "whole": 3}
    sizes = [(name, {"size": size}) for name, size in wanted.items()]
    scales = [(name, {"scale_factor": scale}) for name, scale in by.items()]
    cases: dict[str, Callable[..., torch.Tensor]] = {}
    for (name, target), mode in itertools.product(sizes + scales, ("nearest", "nearest-exact", "bilinear", "bicubic")):
        smooth = mode.startswith("bi")
        for corners, antialias in itertools.product((None, True), (False, True)) if smooth else ((None, False),):
            options = {**target, "mode": mode, "align_corners": corners, "antialias": antialias}
            cases[f"{mode} {name} {corners} {antialias}"] = lambda x, options=options: F.interpolate(x, **options)
    cases["recomputed"] = lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)
    cases["line"] = lambda x: F.interpolate(x[:, 0], scale_factor=1.3, mode="linear")
    cases["nearest line"] = lambda x: F.interpolate(x[0], size=11)
    cases["area"] = lambda x: F.interpolate(x, size=(3, 4), mode="area")
    return cases


INTERPOLATIONS = _interpolations()


@pytest.mark.parametrize("image", [IMAGE, WIDE, IMAGE.float()], ids=["narrow", "channels", "float32"])
def test_interpolation(image: torch.Tensor) -> None:
    check_each(INTERPOLATIONS, (image,))


def test_interpolation_of_volumes() -> None:
    modes = {"nearest": {}, "nearest-exact": {}, "trilinear": {"align_corners": True}}
    cases = {
        f"{mode} {size}": lambda x, size=size, mode=mode, options=options: F.interpolate(
            x, size=size, mode=mode, **options
        )
        for mode, options in modes.items()
        for size in ((6, 5, 4), (2, 11, 1))
    }
    check_each(cases, (VOLUME,))


def test_nearest_rounds_as_torch_does() -> None:
    """Products in float32 that round to, or just below, a whole number."""
    line = torch.arange(100.0).reshape(1, 1, 100)
    cases = {str(n): lambda x, n=n: F.interpolate(x, size=n) for n in (3, 7, 41, 49, 82, 98, 107, 153, 287, 697)}
    exact = {f"exact {n}": lambda x, n=n: F.interpolate(x, size=n, mode="nearest-exact") for n in (41, 49, 98, 107)}
    check_each({**cases, **exact}, (line,))


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(padding: str) -> None:
    grid = torch.rand(2, 5, 11, 2, dtype=torch.float64) * 3 - 1.5
    cases = {
        f"{mode} {corners}": lambda x, g, mode=mode, corners=corners: F.grid_sample(x, g, mode, padding, corners)
        for mode in ("nearest", "bilinear", "bicubic")
        for corners in (False, True)
    }
    check_each(cases, (IMAGE, grid))
    wide = {name: lambda x, g, case=case: case(x, g[:1]) for name, case in cases.items()}
    check_each(wide, (WIDE, grid))
    positions = torch.rand(1, 3, 2, 4, 3, dtype=torch.float64) * 3 - 1.5
    volumes = {name: case for name, case in cases.items() if "bicubic" not in name}
    check_each(volumes, (VOLUME, positions))


def test_affine_grid() -> None:
    theta = torch.tensor([[[0.9, -0.2, 0.1], [0.3, 1.1, -0.2]]], dtype=torch.float64)
    cases = {
        str(corners): lambda x, t, corners=corners: F.grid_sample(
            x, F.affine_grid(t, [1, 17, 4, 3], align_corners=corners), align_corners=corners
        )
        for corners in (False, True)
    }
    check_each(cases, (WIDE, theta))


def test_bytes_round_after_each_axis() -> None:
    """torch weighs bytes in fixed point, which may round a half the other way; cubic weights of the second axis add up
    to more than 1."""
    image = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cases = {
        f"{mode} {size} {antialias}": lambda x, size=size, mode=mode, antialias=antialias: F.interpolate(
            x, size=size, mode=mode, antialias=antialias
        )
        for mode, size, antialias in itertools.product(("bilinear", "bicubic"), ((20, 23), (50, 61)), (False, True))
    }
    found = call(load(Each(cases), (image,)), image)
    for name, case in cases.items():
        difference = (found[name].int() - case(image).int()).abs()
        assert found[name].dtype == torch.uint8 and difference.max() <= 1 + ("bicubic" in name), name
        assert (difference > 0).float().mean() < 0.2, name


class Resized(torch.nn.Module):
    """Every mode with sizes that vary."""

    def forward(self, x: torch.Tensor, like: torch.Tensor, grid: torch.Tensor) -> dict[str, torch.Tensor]:
        to = like.shape[-2:]
        return {
            "repeated": F.interpolate(x, scale_factor=2),
            "nearest": F.interpolate(x, size=to),
            "bilinear": F.interpolate(x, size=to, mode="bilinear"),
            "by scale": F.interpolate(x, scale_factor=3, mode="bilinear"),
            "bicubic": F.interpolate(x, size=to, mode="bicubic", align_corners=True),
            "smooth": F.interpolate(x, size=to, mode="bilinear", antialias=True),
            "smooth bicubic": F.interpolate(x, size=to, mode="bicubic", antialias=True),
            "grid": F.grid_sample(x, grid, padding_mode="reflection", align_corners=False),
        }


def test_symbolic_sizes_natively() -> None:
    shapes = {"x": {0: "n", 2: "h", 3: "w"}, "like": {2: "oh", 3: "ow"}, "grid": {0: "n", 1: "gh"}}
    example = (torch.randn(2, 9, 8, 7), torch.randn(1, 1, 5, 6), torch.randn(2, 4, 3, 2))
    program = runtime.compile(Resized(), example, dynamic_shapes=shapes)
    assert [row for row in program.ledger() if row.unit == "host"] == []
    for n, h, w, oh, ow in ((2, 5, 13, 9, 4), (3, 10, 20, 7, 64)):
        inputs = (torch.randn(n, 9, h, w), torch.zeros(1, 1, oh, ow), torch.rand(n, h, 3, 2) * 2 - 1)
        found, expected = program(*inputs), Resized()(*inputs)
        for name, array in expected.items():  # torch's positions are float32, and so much less exact
            torch.testing.assert_close(found[name], array, rtol=1e-5, atol=3e-5)


class RoiAlign(torch.nn.Module):
    """Regions [R, 5] (image, x1, y1, x2, y2) averaged over 2 x 2 samples a bin, in tensor arithmetic and indexing."""

    bins, samples = (3, 2), 2

    def forward(self, x: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        image = regions[:, 0].long()[:, None, None, None]
        down = self.taps(regions[:, 2], regions[:, 4], x.shape[2], self.bins[0])
        across = self.taps(regions[:, 1], regions[:, 3], x.shape[3], self.bins[1])
        channel = torch.arange(x.shape[1])[None, :, None, None]
        total = 0
        for row, height in down:
            for column, width in across:
                found = x[image, channel, row[:, None, :, None], column[:, None, None, :]]
                total = total + found * (height[:, None, :, None] * width[:, None, None, :])
        parts = total.unflatten(3, (self.bins[1], -1)).unflatten(2, (self.bins[0], -1))
        return parts.mean(dim=(3, 5))

    def taps(self, first: torch.Tensor, last: torch.Tensor, size: int, bins: int) -> list[tuple[torch.Tensor, ...]]:
        at = (torch.arange(bins * self.samples) + 0.5) / (bins * self.samples)
        position = first[:, None] - 0.5 + (last - first)[:, None] * at
        inside = (position >= -1) & (position <= size)
        position = position.clamp(0, size - 1)
        low = position.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = position - low
        return [(low, (1 - share) * inside), (high, share * inside)]


def test_roi_align_in_plain_torch_is_what_the_op_computes() -> None:
    x = torch.randn(2, 9, 8, 11)
    program = runtime.compile(RoiAlign(), (x, torch.rand(4, 5)), dynamic_shapes={"x": None, "regions": {0: "r"}})
    for count in (2, 7):
        corner = torch.rand(count, 2) * 9 - 1
        regions = torch.cat([torch.arange(count)[:, None] % 2, corner, corner + torch.rand(count, 2) * 6], dim=1)
        found = program(x, regions)
        torch.testing.assert_close(found, RoiAlign()(x, regions), rtol=1e-5, atol=1e-5)
        attrs = {"output_height": 3, "output_width": 2, "sampling_ratio": 2}
        align = lookup("roi_align")
        assert align.reference is not None
        expected = align.reference(
            x.numpy(), regions[:, 1:].numpy(), regions[:, 0].long().numpy(), **{**align.attrs, **attrs}
        )
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    assert [row for row in program.ledger() if row.unit == "host"] == []
