"""Forecasting."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.coverage.case import BATCH, Builder, Case, hugging, plain

KIND = "time series"
SMALL = {
    "prediction_length": 6,
    "context_length": 12,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 2,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}


def series(name: str, dynamic: bool = True, **options: Any) -> Case:
    """An encoder and decoder over lagged values; the batch dynamic."""
    config = getattr(hf, f"{name}Config")(**{**SMALL, **options})

    def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
        past = 15
        return {
            "past_values": torch.randn(batch, past),
            "past_time_features": torch.randn(batch, past, 2),
            "past_observed_mask": torch.ones(batch, past),
            "future_values": torch.randn(batch, 6),
            "future_time_features": torch.randn(batch, 6, 2),
        }

    sizes = {name: BATCH for name in inputs()} if dynamic else None
    model = getattr(hf, f"{name}Model")(config)
    return hugging(model, inputs, dynamic=sizes, other=(3,) if dynamic else (), use_cache=False)


def autoformer() -> Case:
    """Attention by autocorrelation (Fourier transforms) and series decomposition."""
    case = series("Autoformer", dynamic=False)
    # Its attention refuses the mask of ones that is made for eager attention; this kind makes none.
    case.module.model.config._attn_implementation_internal = "flash_attention_2"
    return case


def patch_tst() -> Case:
    """Patches of each channel in one encoder."""
    config = hf.PatchTSTConfig(
        num_input_channels=3,
        context_length=24,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_attention_heads=2,
        ffn_dim=24,
        num_hidden_layers=2,
        prediction_length=6,
    )

    def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
        return {"past_values": torch.randn(batch, 24, 3)}

    return hugging(
        hf.PatchTSTForPrediction(config), inputs, "prediction_outputs", dynamic={"past_values": BATCH}, other=(3,)
    )


def patch_mixer() -> Case:
    """An MLP mixer over patches and channels."""
    config = hf.PatchTSMixerConfig(
        num_input_channels=3,
        context_length=24,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_layers=2,
        prediction_length=6,
    )

    def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
        return {"past_values": torch.randn(batch, 24, 3)}

    return hugging(
        hf.PatchTSMixerForPrediction(config), inputs, "prediction_outputs", dynamic={"past_values": BATCH}, other=(3,)
    )


class Blocks(nn.Module):
    """N-BEATS: each block explains part of the past and adds to the forecast (Oreshkin et al. 2020)."""

    def __init__(self, past: int = 24, future: int = 6, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.past = past
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(past, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, past + future)
            )
            for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        forecast: Any = 0.0
        for block in self.blocks:
            both = block(x)
            x, forecast = x - both[:, : self.past], forecast + both[:, self.past :]
        return forecast


def blocks() -> Case:
    """The batch dynamic."""
    return plain(Blocks(), lambda batch=2: (torch.randn(batch, 24),), [BATCH], (5,))


FAMILIES: dict[str, Builder] = {
    "PatchTST": patch_tst,
    "PatchTSMixer": patch_mixer,
    "TimeSeriesTransformer": partial(series, "TimeSeriesTransformer"),
    "Informer": partial(series, "Informer", dynamic=False, distil=False, attention_type="full"),
    "Autoformer": autoformer,
    "N-BEATS (plain)": blocks,
}
