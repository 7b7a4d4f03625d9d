"""The families, one file a kind: KIND and FAMILIES, a table from name to builder."""

from __future__ import annotations

from tests.coverage.case import Builder
from tests.coverage.families import (
    audio,
    decoder,
    detection,
    diffusion,
    encoder,
    encoder_decoder,
    experts,
    plain_dense,
    plain_other,
    plain_vision,
    segmentation,
    state_space,
    time_series,
    vision,
    vision_language,
)

KINDS = (
    encoder, decoder, encoder_decoder, experts, state_space, vision, segmentation, detection, vision_language, audio,
    time_series, diffusion, plain_vision, plain_dense, plain_other,
)  # fmt: skip


def builders() -> dict[str, tuple[str, Builder]]:
    """Family name -> kind and builder, in the order of the page."""
    return {name: (module.KIND, build) for module in KINDS for name, build in module.FAMILIES.items()}
