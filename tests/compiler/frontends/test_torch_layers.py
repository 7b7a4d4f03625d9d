"""Products, convolutions, attention, norms, pools and recurrent layers, against torch eager."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import assert_close, call, check_each

torch.manual_seed(0)
IMAGE, STACK, MATRIX = torch.randn(2, 6, 9, 8), torch.randn(6, 9, 8), torch.randn(7, 8)
KERNEL, DEPTHWISE, TRANSPOSED = torch.randn(4, 6, 3, 3), torch.randn(6, 1, 3, 3), torch.randn(6, 4, 3, 3)
attention = F.scaled_dot_product_attention

PRODUCTS = {
    "linear": lambda x, s, w: F.linear(x, w, w[:, 0]),
    "linear_plain": lambda x, s, w: F.linear(x, w),
    "matmul_broadcast": lambda x, s, w: x @ s.mT,
    "mm": lambda x, s, w: w @ w.T,
    "bmm": lambda x, s, w: torch.bmm(s, s.mT),
    "mv": lambda x, s, w: x @ w[0],
    "dot": lambda x, s, w: torch.dot(w[0], w[1]),
    "outer": lambda x, s, w: torch.outer(w[0], w[1]),
    "addmm": lambda x, s, w: torch.addmm(w[:, 0], w, w.T, beta=0.5, alpha=2),
    "baddbmm": lambda x, s, w: torch.baddbmm(s @ s.mT, s, s.mT, beta=0, alpha=0.3),
    "einsum": lambda x, s, w: torch.einsum("bcij,cij->bij", x, s),
    "einsum_heads": lambda x, s, w: torch.einsum("bhid,bhjd->bhij", x, x),
    "bilinear": lambda x, s, w: F.bilinear(w, w, torch.ones(3, 8, 8)),
    "attention": lambda x, s, w: attention(x, x, x),
    "attention_causal": lambda x, s, w: attention(x, x[:, :, :5], x[:, :, :5], is_causal=True, scale=0.2),
    "attention_mask": lambda x, s, w: attention(x, x, x, attn_mask=s @ s.mT),
    "attention_flags": lambda x, s, w: attention(x, x, x, attn_mask=(s @ s.mT) > -1),
    "attention_grouped": lambda x, s, w: attention(x, x[:, :2], x[:, :2], enable_gqa=True),
    "attention_rank_3": lambda x, s, w: attention(s, s[:, :4], s[:, :4]),
}

CONVOLUTIONS = {
    "conv": lambda x, k, d: F.conv2d(x, k, k[:, 0, 0, 0], padding=1),
    "strided": lambda x, k, d: F.conv2d(x, k, stride=(2, 1), dilation=2, padding=(2, 1)),
    "same": lambda x, k, d: F.conv2d(x, k, padding="same"),
    "depthwise": lambda x, k, d: F.conv2d(x, d, groups=6, padding=1),
    "conv1d": lambda x, k, d: F.conv1d(x[:, :, 0], k[:, :, 0], padding=1),
    "conv3d": lambda x, k, d: F.conv3d(x[:, :, None].expand(2, 6, 4, 9, 8), k[:, :, None].expand(4, 6, 2, 3, 3)),
    "unbatched": lambda x, k, d: F.conv2d(x[0], k),
}

NORMS = {
    "batch_norm": lambda x: F.batch_norm(x, x[0, :, 0, 0], x[0, :, 0, 1] ** 2, x[0, :, 1, 0], x[0, :, 1, 1]),
    "batch_norm_plain": lambda x: F.batch_norm(x, x[0, :, 0, 0], x[0, :, 0, 1] ** 2),
    "group_norm": lambda x: F.group_norm(x, 3, x[0, :, 0, 0], x[0, :, 0, 1]),
    "group_norm_plain": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x),
    "layer_norm": lambda x: F.layer_norm(x, (9, 8)),
    "rms_norm": lambda x: F.rms_norm(x, (8,)),
}

POOLS = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_ceil": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_1d": lambda x: F.max_pool1d(x[:, :, 0], 2),
    "mean": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "mean_inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False, ceil_mode=True),
    "mean_divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "mean_1d": lambda x: F.avg_pool1d(x[:, :, 0], 2),
    "mean_3d": lambda x: F.avg_pool3d(x, 2),
    "adaptive_1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_equal": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive_unequal": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "adaptive_1d": lambda x: F.adaptive_avg_pool1d(x[0], 3),
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, size=(5, 13), mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, size=(5, 13), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(2, 3, 3, 2) + 0.3, align_corners=False),
}


DEEP = {"num_layers": 2, "bidirectional": True, "batch_first": True}


def test_products() -> None:
    check_each(PRODUCTS, (IMAGE, STACK, MATRIX))


def test_convolutions() -> None:
    check_each(CONVOLUTIONS, (IMAGE, KERNEL, DEPTHWISE))


def test_transposed_convolutions() -> None:
    options = {"stride": 2, "padding": 1, "output_padding": 1}
    cases = {
        "2d": lambda x, k: F.conv_transpose2d(x, k, **options),
        "1d": lambda x, k: F.conv_transpose1d(x[:, :, 0], k[:, :, 0]),
    }
    check_each(cases, (IMAGE, TRANSPOSED))


@pytest.mark.parametrize("group", [NORMS, POOLS], ids=["norms", "pools"])
def test_norms_and_pools(group: dict) -> None:
    check_each(group, (IMAGE,))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, DEEP, {"bias": False}], ids=["plain", "deep", "no bias"])
def test_recurrent_layers(kind: type[nn.Module], options: dict) -> None:
    model = kind(5, 7, **options).double().eval()
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    found, expected = call(load(model, (x,)), x), model(x)
    flat, wanted = (torch.utils._pytree.tree_leaves(value) for value in (found, expected))
    for i, (one, other) in enumerate(zip(flat, wanted, strict=True)):
        assert_close(one, other, f"output {i}")
