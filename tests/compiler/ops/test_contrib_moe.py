"""ONNX Runtime's mixture of experts, against ONNX Runtime itself."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from compiler.errors import UnsupportedOp
from tests.compiler.ops.contrib_check import check, expected, feeds, model_of

RNG = np.random.default_rng(29)
HIDDEN, INNER, EXPERTS = 16, 24, 5


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def operands(tokens: int, fused: int = 1) -> list[np.ndarray]:
    return [draw(tokens, HIDDEN), draw(tokens, EXPERTS) * 3, draw(EXPERTS, fused * INNER, HIDDEN) * 0.3,
            draw(EXPERTS, fused * INNER), draw(EXPERTS, HIDDEN, INNER) * 0.3, draw(EXPERTS, HIDDEN)]  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, EXPERTS])
@pytest.mark.parametrize("normalize", [0, 1])
def test_routing(k: int, normalize: int) -> None:
    check("MoE", operands(9), weights=[2, 3, 4, 5], k=k, normalize_routing_weights=normalize)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
def test_activations(activation: str) -> None:
    check("MoE", operands(9), weights=[2, 4], symbolic=False, k=2, activation_type=activation)


@pytest.mark.parametrize("limit", [{}, {"swiglu_limit": 0.7}])
def test_gated_activation(limit: dict[str, float]) -> None:
    options = {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.7, "activation_beta": 1.0}
    inputs = operands(9, 2)
    check("MoE", inputs, weights=[2, 3, 4, 5], symbolic=False, **options, **limit)
    # Gates and linear parts as halves, which ONNX Runtime has on other machines only.
    model = model_of("MoE", inputs, ["y"], {**options, **limit}, symbolic=False)
    halves = [np.concatenate([x[:, 0::2], x[:, 1::2]], 1) if i in (2, 3) else x for i, x in enumerate(inputs)]
    ours = runtime.compile(model_of("MoE", halves, ["y"], {**options, **limit, "swiglu_fusion": 2}, symbolic=False))
    np.testing.assert_allclose(ours(*halves)[0], expected(model, inputs)[0], rtol=1e-5, atol=1e-5)


def test_any_number_of_tokens_and_any_routing_through_one_program() -> None:
    constants = [2, 3, 4, 5]
    first = operands(9)
    model = model_of("MoE", first, ["y"], {"k": 2}, symbolic=True, weights=constants)
    program = runtime.compile(model)
    for tokens in (9, 1, 33, 2):
        for liking in (0, 20):  # everybody goes to the last experts
            router = draw(tokens, EXPERTS) + np.arange(EXPERTS, dtype=np.float32) * liking
            inputs = [draw(tokens, HIDDEN), router, *first[2:]]
            fed = feeds(model, inputs)
            np.testing.assert_allclose(program(**fed)[0], expected(model, inputs)[0], rtol=1e-5, atol=1e-5)
    assert program.statistics().plans == 4


def test_what_is_refused_says_so() -> None:
    model = model_of("MoE", operands(3), ["y"], {"activation_type": "swiglu"}, symbolic=False)
    with pytest.raises(UnsupportedOp, match="activation swiglu and swiglu_fusion 0; expected relu"):
        runtime.compile(model)
