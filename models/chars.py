"""A small GPT trained here to predict the next character of English: the docstrings of Python's standard library."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from models.docstrings import docstrings
from models.gpt import GPT, Config
from models.training import reproducible

DYNAMIC = ({0: "batch", 1: "seq"},)
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
UNKNOWN = len(ALPHABET)  # the code of every other character
SEQ = 64
CONFIG = Config(layers=2, hidden=96, heads=4, vocabulary=len(ALPHABET) + 1, positions=2 * SEQ)
HELD_OUT = 10  # one docstring of so many is not trained on
STEPS = 800
BATCH = 24
RATE = 4e-3  # the highest of the one-cycle schedule


def encode(text: str) -> torch.Tensor:
    """The codes of a text's characters, int64 [characters]."""
    codes = {character: code for code, character in enumerate(ALPHABET)}
    return torch.tensor([codes.get(character, UNKNOWN) for character in text])


@cache
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """The text to train on and the text held out, int64 [characters] each: different docstrings."""
    texts = docstrings()
    trained = [text for index, text in enumerate(texts) if index % HELD_OUT]
    return encode("\n\n".join(trained)), encode("\n\n".join(texts[::HELD_OUT]))


@cache
def train(steps: int = STEPS) -> nn.Module:
    """The model after so many steps of BATCH random pieces of text, in eval mode. Half a minute for STEPS, once a
    process; the same weights every time on one machine and Python version."""
    text, _ = data()
    with reproducible(seed=0):
        model = GPT(CONFIG)
        for layer in model.modules():
            if isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
        optimizer = torch.optim.AdamW(model.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
        for _ in range(steps):
            starts = torch.randint(len(text) - SEQ, (BATCH, 1))
            pieces = text[starts + torch.arange(SEQ + 1)]
            loss = cross_entropy(model(pieces[:, :-1]), pieces[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def held_out(pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [pieces, SEQ] evenly spaced over the text held out, and the characters that follow each, [pieces, SEQ].
    Raises ValueError for more pieces than lie side by side there."""
    _, text = data()
    if pieces * (SEQ + 1) > len(text):
        raise ValueError(f"{pieces} pieces of {SEQ + 1} characters; the text held out has {len(text)}")
    starts = torch.arange(pieces) * (len(text) // pieces)
    chosen = text[starts[:, None] + torch.arange(SEQ + 1)]
    return chosen[:, :-1], chosen[:, 1:]


def cross_entropy(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Nats a character that the logits [B, S, vocabulary] give to the characters [B, S] that follow."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def accuracy(logits: torch.Tensor, following: torch.Tensor) -> float:
    """The share of characters whose logit is the greatest."""
    return (logits.argmax(-1) == following).float().mean().item()


def build(*, batch: int = 1, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The trained model and `batch` pieces of the text held out, [batch, 64]."""
    import copy

    return copy.deepcopy(train()).to(dtype), (held_out(batch)[0],)
