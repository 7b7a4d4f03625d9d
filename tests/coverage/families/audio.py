"""Speech and sound."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.models.encodec.modeling_encodec import EncodecConv1d

from tests.coverage.case import BATCH, Builder, Case, hugging, plain

KIND = "audio"
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 29,
}


def speech(name: str, **options: Any) -> Case:
    """Raw samples to characters (CTC); the batch and length dynamic."""
    config = getattr(hf, f"{name}Config")(**{**SMALL, **options})

    def inputs(batch: int = 2, samples: int = 800) -> dict[str, torch.Tensor]:
        return {"input_values": torch.randn(batch, samples)}

    model = getattr(hf, f"{name}ForCTC")(config)
    sizes = {0: "batch", 1: 40 * torch.export.Dim("pieces", min=6, max=500)}
    return hugging(model, inputs, "logits", dynamic={"input_values": sizes}, other=(3, 1000))


def masked_speech() -> Case:
    """wav2vec 2.0 with padded clips: the mask goes through the convolutions' length arithmetic."""
    config = hf.Wav2Vec2Config(**SMALL, feat_extract_norm="layer")

    def inputs() -> dict[str, torch.Tensor]:
        mask = torch.ones(2, 800, dtype=torch.long)
        mask[1, 500:] = 0
        return {"input_values": torch.randn(2, 800), "attention_mask": mask}

    return hugging(hf.Wav2Vec2ForCTC(config), inputs, "logits")


def spectrogram() -> Case:
    """A ViT over a mel spectrogram."""
    config = hf.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=4,
        max_length=24,
        num_mel_bins=16,
        frequency_stride=3,
        time_stride=3,
        num_labels=7,
    )

    def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
        return {"input_values": torch.randn(batch, 24, 16)}

    return hugging(hf.ASTForAudioClassification(config), inputs, "logits", dynamic={"input_values": BATCH}, other=(3,))


def conformer() -> Case:
    """Convolution and relative attention in turn."""
    options = {**SMALL, "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 5}
    config = hf.Wav2Vec2ConformerConfig(**options)
    return hugging(hf.Wav2Vec2ConformerForCTC(config), lambda: {"input_values": torch.randn(2, 800)}, "logits")


class WholePadding(EncodecConv1d):
    """EnCodec's convolution with its padding computed in whole numbers: as tensors, torch.export cannot follow it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = (self.conv.kernel_size[0] - 1) * self.conv.dilation[0] + 1, self.conv.stride[0]
        extra = -(x.shape[-1] - stride) % stride
        x = self.conv(self._pad1d(x, (kernel - stride, extra), mode=self.pad_mode))
        return self.norm(x) if self.norm_type == "time_group_norm" else x


class EncodecAuto(nn.Module):
    """EnCodec's encoder, residual vector quantiser and decoder in one pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.model.quantizer.encode(self.model.encoder(samples), 1.5)
        return codes, self.model.decoder(self.model.quantizer.decode(codes))


def encodec() -> Case:
    """Sound to codes to sound: LSTM, dilated and transposed convolutions, nearest code words."""
    config = hf.EncodecConfig(
        num_filters=4,
        hidden_size=16,
        codebook_size=32,
        upsampling_ratios=[4, 2],
        target_bandwidths=[1.5],
        sampling_rate=2400,
        num_lstm_layers=1,
    )
    model = hf.EncodecModel(config)
    for part in model.modules():
        if isinstance(part, EncodecConv1d):
            part.__class__ = WholePadding
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    return plain(EncodecAuto(model), lambda: (torch.randn(2, 1, 160),))


def vits_flow() -> Case:
    """HiFi-GAN: mel frames to samples through transposed and dilated convolutions."""
    config = hf.SpeechT5HifiGanConfig(
        model_in_dim=16, upsample_initial_channel=32, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8]
    )

    class Vocoder(nn.Module):
        """Frames [frames, bins] in a batch of one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = hf.SpeechT5HifiGan(config)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return self.model(frames)

    return plain(
        Vocoder(), lambda batch=2, frames=9: (torch.randn(batch, frames, 16),), [{0: "batch", 1: "frames"}], (3, 14)
    )


FAMILIES: dict[str, Builder] = {
    "wav2vec 2.0": partial(speech, "Wav2Vec2"),
    "wav2vec 2.0 (padded clips)": masked_speech,
    "HuBERT": partial(speech, "Hubert"),
    "SEW": partial(speech, "SEW", squeeze_factor=2),
    "UniSpeech-SAT": partial(speech, "UniSpeechSat"),
    "WavLM": partial(speech, "WavLM", num_buckets=16, max_bucket_distance=40),
    "Conformer": conformer,
    "AST": spectrogram,
    "EnCodec": encodec,
    "HiFi-GAN": vits_flow,
}
