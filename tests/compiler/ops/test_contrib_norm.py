"""ONNX Runtime's norms, embeddings, GELU variants and products, against ONNX Runtime itself."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compiler.ops.contrib_check import check

RNG = np.random.default_rng(17)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("skip", [(2, 5, 12), (1, 5, 12), (5, 12)])
def test_skip_layer_normalization(skip: tuple[int, ...]) -> None:
    x, other = draw(2, 5, 12), draw(*skip)
    symbolic = skip == x.shape
    check("SkipLayerNormalization", [x, other, draw(12)], symbolic=symbolic, epsilon=1e-3)
    outputs = ("y", "", "", "sum")
    check("SkipLayerNormalization", [x, other, draw(12), draw(12), draw(12)], outputs, symbolic=symbolic)
    check("SkipSimplifiedLayerNormalization", [x, other, draw(12)], symbolic=symbolic, epsilon=1e-3)
    check("SkipSimplifiedLayerNormalization", [x, other, draw(12), draw(12)], outputs, symbolic=symbolic)


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_normalization(axis: int) -> None:
    x = draw(3, 4, 8)
    check("SimplifiedLayerNormalization", [x, draw(*x.shape[axis:])], domain="", axis=axis, epsilon=1e-6, stash_type=1)
    if axis == -1:
        check("SimplifiedLayerNormalization", [x, draw(8)], ("y", "inverse"), domain="", axis=axis)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("places", [False, True])
def test_embeddings(segments: bool, mask: bool, places: bool) -> None:
    def whole(most: int) -> np.ndarray:
        return RNG.integers(0, most, (2, 5)).astype(np.int32)

    tables = draw(11, 8), draw(9, 8), draw(3, 8) if segments else None
    inputs = [whole(11), whole(3) if segments else None, *tables, draw(8), draw(8)]
    inputs += [whole(2) if mask else None, whole(9) if places else None]
    weights = [i for i in (2, 3, 4, 5, 6) if inputs[i] is not None]
    while inputs[-1] is None:
        inputs.pop()
    check("EmbedLayerNormalization", inputs, ("y", "counts"), weights=weights)
    check("EmbedLayerNormalization", inputs, ("y", "counts", "sum"), symbolic=False, epsilon=0.1)


def test_gelu() -> None:
    x = draw(3, 7, 16) * 3
    check("Gelu", [x])
    check("BiasGelu", [x, draw(16)], weights=[1])
    check("FastGelu", [x])
    check("FastGelu", [x, draw(16)], weights=[1])
    check("QuickGelu", [x], alpha=1.3)


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("right", [0, 1])
def test_fused_products(left: int, right: int) -> None:
    a, b = draw(3, 4, 5), draw(3, 5, 6)
    sides = a.swapaxes(1, 2).copy() if left else a, b.swapaxes(1, 2).copy() if right else b
    check("FusedMatMul", sides, alpha=0.3, transA=left, transB=right, symbolic=False)
    check("FusedMatMul", [sides[0], sides[1][0]], transA=left, transB=right, weights=[1], symbolic=False)
    # Rows on the first axis: [rows, batch, K] and [K, batch, columns].
    rows = np.ascontiguousarray(np.moveaxis(sides[0], 1, 0)), np.ascontiguousarray(np.moveaxis(sides[1], 1, 0))
    check("FusedMatMul", rows, transA=left, transB=right, transBatchA=1, transBatchB=1, symbolic=False)
