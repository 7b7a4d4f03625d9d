"""ONNX Runtime's attention operators and rotary embeddings, against ONNX Runtime itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import runtime
from compiler.errors import UnsupportedOp
from tests.compiler.ops.contrib_check import Arrays, check, expected, feeds, model_of

RNG = np.random.default_rng(23)
N, HEADS, L, S, E = 2, 4, 5, 7, 16


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def table(rows: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(rows)[:, None] / 100 ** (np.arange(half) / half)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embeddings(interleaved: int) -> None:
    x, (cos, sin) = draw(N, L, HEADS * E), table(20, E // 2)
    places = RNG.integers(0, 20, (N, L))
    options: dict[str, Any] = {"interleaved": interleaved, "weights": [2, 3]}
    check("RotaryEmbedding", [x, places, cos, sin], **options)
    check("RotaryEmbedding", [x, np.array([7]), cos, sin], symbolic=False, **options)
    check("RotaryEmbedding", [draw(N, HEADS, L, E), places, cos, sin], **options)
    cos, sin = table(20, E // 4)
    part = {**options, "rotary_embedding_dim": E // 2, "num_heads": HEADS}
    check("RotaryEmbedding", [x, places, cos, sin], **part)


MASKS = {
    "none": None, "lengths": np.array([3, L], np.int32), "ranges": np.array([3, L, 1, 2], np.int32),
    "keys": np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], np.int32),
    "pairs": RNG.integers(0, 2, (N, L, L)).astype(np.int32),
}  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_its_projection(mask: str, causal: int) -> None:
    width = HEADS * E
    x, weights, bias = draw(N, L, 12), draw(12, 3 * width) * 0.3, draw(3 * width)
    options = {"num_heads": HEADS, "unidirectional": causal, "weights": [1, 2], "symbolic": False}
    check("Attention", [x, weights, bias, MASKS[mask]], **options)
    if mask == "none":
        check("Attention", [x, weights, bias], **{**options, "symbolic": True})
        check("Attention", [x, weights, bias, None, None, draw(N, HEADS, L, L)], scale=0.1, **options)
        check("Attention", [x, weights, bias, None, draw(2, N, HEADS, 3, E)], ("y", "present"), **options)
        split = {**options, "qkv_hidden_sizes": [width, width, 2 * width]}
        check("Attention", [x, draw(12, 4 * width) * 0.3, draw(4 * width)], **split)


@pytest.mark.parametrize("mask", ["none", "lengths", "keys", "pairs"])
def test_multi_head_attention(mask: str) -> None:
    q, k, v = draw(N, L, HEADS * E), draw(N, L, HEADS * E), draw(N, L, HEADS * 6)
    bias = draw(HEADS * (2 * E + 6))
    options = {"num_heads": HEADS, "symbolic": False}
    check("MultiHeadAttention", [q, k, v, bias, MASKS[mask]], mask_filter_value=-50.0, **options)
    check("MultiHeadAttention", [q, k, v, None, MASKS[mask]], scale=0.2, **options)


def test_multi_head_attention_wherever_keys_lie() -> None:
    q, options = draw(N, L, HEADS * E), {"num_heads": HEADS}
    check("MultiHeadAttention", [q, draw(N, S, HEADS * E), draw(N, S, HEADS * E)], **options)
    check("MultiHeadAttention", [q, draw(N, HEADS, S, E), draw(N, HEADS, S, E)], **options)
    cached: Arrays = [q, draw(N, L, HEADS * E), draw(N, L, HEADS * E), None, None, draw(N, HEADS, L, L + 3),
                      draw(N, HEADS, 3, E), draw(N, HEADS, 3, E)]  # fmt: skip
    outputs = ("y", "key", "value")
    check("MultiHeadAttention", cached, outputs, symbolic=False, **options)
    check("MultiHeadAttention", cached, outputs, symbolic=False, unidirectional=1, **options)


@pytest.mark.parametrize("parts", [2, 3])
def test_packed_operands(parts: int) -> None:
    """ONNX Runtime packs on other machines only: what it computes of the same operands apart."""
    operands = [draw(N, L, HEADS, E) for _ in range(3)]
    apart = [x.reshape(N, L, HEADS * E) for x in operands]
    options = {"num_heads": HEADS}
    wanted = expected(model_of("MultiHeadAttention", apart, ["y"], options, symbolic=False), apart)[0]
    packed = [*apart[: 3 - parts], np.stack(operands[3 - parts :], axis=3)]
    model = model_of("MultiHeadAttention", packed, ["y"], options, symbolic=True)
    np.testing.assert_allclose(runtime.compile(model)(*packed)[0], wanted, rtol=1e-5, atol=1e-6)


GROUPS = {"num_heads": 6, "kv_num_heads": 2}
OUTPUTS = ("y", "key", "value")


def sequences(length: int) -> list[np.ndarray]:
    return [draw(N, length, 6 * E), draw(N, length, 2 * E), draw(N, length, 2 * E)]


def lengths(total: int, *each: int) -> list[np.ndarray]:
    return [np.array(each, np.int32) - 1, np.array(total, np.int32)]


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0, "scale": 0.2}, {"local_window_size": 2}])
def test_first_call_of_grouped_queries(options: dict[str, Any]) -> None:
    inputs = [*sequences(L), None, None, *lengths(L, L, L)]
    check("GroupQueryAttention", inputs, OUTPUTS, weights=[6], **GROUPS, **options)
    # Padded on the right: what comes of the padding is not defined.
    short = [*sequences(L), None, None, *lengths(L, 3, L)]
    defined = (
        (slice(None), slice(0, 3)),
        (slice(None), slice(None), slice(0, 3)),
        (slice(None), slice(None), slice(0, 3)),
    )
    check("GroupQueryAttention", short, OUTPUTS, weights=[6], symbolic=False, compared=defined, **GROUPS, **options)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("options", [{}, {"local_window_size": 2}])
def test_later_calls_of_grouped_queries(new: int, options: dict[str, Any]) -> None:
    total = 4 + new
    inputs = [*sequences(new), draw(N, 2, 4, E), draw(N, 2, 4, E), *lengths(total, total, total)]
    if new == 1:  # ONNX Runtime takes several new tokens of one sequence only
        check("GroupQueryAttention", inputs, OUTPUTS, weights=[6], **GROUPS, **options)
    one = [x[:1] for x in inputs[:6]] + inputs[6:]
    check("GroupQueryAttention", one, OUTPUTS, weights=[6], symbolic=False, **GROUPS, **options)


def test_sequences_that_have_filled_less_of_their_caches() -> None:
    inputs = [*sequences(1), draw(N, 2, 6, E), draw(N, 2, 6, E), *lengths(6, 3, 6)]
    held = (slice(None), slice(None), slice(0, 3))
    check("GroupQueryAttention", inputs, OUTPUTS, weights=[6], compared=(..., held, held), **GROUPS)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_grouped_queries_are_turned(interleaved: int, packed: bool) -> None:
    cos, sin = table(20, E // 2)
    options: dict[str, Any] = {**GROUPS, "do_rotary": 1, "rotary_interleaved": interleaved, "weights": [6, 7, 8]}
    apart = sequences(L)
    operands = [np.concatenate(apart, -1), None, None] if packed else apart
    check("GroupQueryAttention", [*operands, None, None, *lengths(L, L, L), cos, sin], OUTPUTS, **options)
    apart = sequences(1)
    operands = [np.concatenate(apart, -1), None, None] if packed else apart
    caches = [draw(N, 2, 6, E), draw(N, 2, 6, E)]
    check("GroupQueryAttention", [*operands, *caches, *lengths(7, 7, 7), cos, sin], OUTPUTS, **options)


def test_grouped_queries_with_a_bias() -> None:
    for heads in (1, 6):
        inputs = [*sequences(L), None, None, *lengths(L, L, L), None, None, None, draw(1, heads, L, L)]
        check("GroupQueryAttention", inputs, OUTPUTS, weights=[6], symbolic=False, **GROUPS)


def test_what_is_refused_says_so() -> None:
    sinks = [*sequences(L), None, None, *lengths(L, L, L), None, None, None, None, draw(6)]
    caches = [*sequences(1), draw(N, 2, 4, E), draw(N, 2, 4, E), *lengths(5, 5, 5)]
    unknown = [draw(N, L, HEADS * E), np.zeros((N, L), np.int64), *table(9, E // 2)]
    for operator, inputs, options, text in (
        ("GroupQueryAttention", sinks, GROUPS, "with head_sink"),
        ("GroupQueryAttention", caches, GROUPS, "total_sequence_length computed from data"),
        ("RotaryEmbedding", unknown, {"scale": 2.0}, "scale 2.0; only 1.0"),
    ):
        model = model_of(operator, inputs, OUTPUTS[: 3 if options is GROUPS else 1], options, symbolic=False)
        with pytest.raises(UnsupportedOp, match=text):
            runtime.compile(model)
    model = model_of("RotaryEmbedding", unknown, ["y"], {}, symbolic=False)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "hidden"
    with pytest.raises(UnsupportedOp, match=r"com\.microsoft:RotaryEmbedding on .*hidden.*give the inputs shapes"):
        runtime.compile(model)


def test_half_precision_rounds_what_single_precision_computes() -> None:
    cos, sin = table(20, E // 2)
    caches = [draw(N, 2, 6, E), draw(N, 2, 6, E)]
    grouped: Arrays = [*sequences(1), *caches, *lengths(7, 7, 7), cos, sin]
    projected: Arrays = [draw(N, L, 12), draw(12, 3 * HEADS * E) * 0.3, draw(3 * HEADS * E), MASKS["keys"]]
    for operator, inputs, outputs, options, weights in (
        ("GroupQueryAttention", grouped, OUTPUTS, {**GROUPS, "do_rotary": 1, "softcap": 2.0}, (6, 7, 8)),
        ("Attention", projected, ["y"], {"num_heads": HEADS, "unidirectional": 1}, (1, 2)),
    ):
        half = [x.astype(np.float16) if x is not None and x.dtype == np.float32 else x for x in inputs]
        results = []
        for arrays in (inputs, half):
            model = model_of(operator, arrays, outputs, options, symbolic=True, weights=weights)
            program = runtime.compile(model)
            results.append(program(**feeds(model, arrays)))
            assert not [row for row in program.ledger() if row.unit == "host"]
        for single, rounded in zip(*results, strict=True):
            assert rounded.dtype == np.float16
            np.testing.assert_allclose(rounded, single, rtol=5e-3, atol=5e-3)
