"""Products of the GEMM bench: the models contestants get, and what passes for a right result."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from bench import peers
from bench.product import (
    COLD_BYTES,
    KINDS,
    MOST_PRODUCTS,
    Product,
    check,
    cold_shapes,
    copies_for,
    make,
    onnx_model,
    quantized_model,
)
from bench.product_contestants import CONTESTANTS, builders, installed
from bench.shapes import Shape

SHAPE = Shape(5, 40, 130)


def results(product: Product) -> list[np.ndarray]:
    """What the products are, rounded once."""
    wide = [product.a.astype(np.longdouble) @ b.astype(np.longdouble) for b in product.weights]
    return [c.astype(np.float64).astype(product.kind.c) for c in wide]


@pytest.mark.parametrize("name", KINDS)
def test_right_results_pass_and_wrong_ones_do_not(name: str) -> None:
    product = make(KINDS[name], SHAPE, "constant", 1, 3)
    right = results(product)
    assert check(right, product)[1]
    assert not check(right[:2], product)[1]
    assert not check([c[:, :-1] for c in right], product)[1]
    assert not check([c.astype(np.int64) for c in right], product)[1]
    assert not check([*right[:2], right[0]], product)[1], "the last product's weight is another one"
    spoilt = [c.copy() for c in right]
    spoilt[0][-1, -1] = right[0][-1, -1] * 2 + 1
    assert not check(spoilt, product)[1]


@pytest.mark.parametrize(
    ("name", "lower"), [("float64", np.float32), ("float32", ml_dtypes.bfloat16), ("bfloat16", ml_dtypes.float8_e4m3fn)]
)
def test_a_product_of_lower_precision_is_wrong(name: str, lower: type) -> None:
    product = make(KINDS[name], SHAPE, "constant", 1, 1)
    a, b = (x.astype(lower).astype(np.float64) for x in (product.a, product.weights[0]))
    assert not check([(a @ b).astype(product.kind.c)], product)[1]


def test_sums_kept_in_bfloat16_are_wrong() -> None:
    product = make(KINDS["bfloat16"], SHAPE, "constant", 1, 1)
    total = np.zeros((SHAPE.m, SHAPE.n), ml_dtypes.bfloat16)
    for k in range(SHAPE.k):
        total = total + product.a[:, k : k + 1] * product.weights[0][k]
    assert not check([total], product)[1]


def test_a_requantised_result_may_be_one_off() -> None:
    product = make(KINDS["int8"], SHAPE, "constant", 1, 1)
    exact = results(product)[0] / product.scale
    rounded = np.clip(np.rint(exact), -128, 127).astype(np.int8)
    assert np.abs(rounded).max() > 40, "the scale uses the range"
    assert check([rounded], product, "int8")[1]
    assert not check([np.clip(rounded.astype(int) + 2, -128, 127).astype(np.int8)], product, "int8")[1]


@pytest.mark.parametrize("name", ["float64", "float32", "int8"])
@pytest.mark.parametrize("form", ["constant", "input"])
def test_a_model_holds_as_many_products(name: str, form: str) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    product = make(KINDS[name], SHAPE, form, 1, 3 if form == "constant" else 1)
    model = onnx.load_model_from_string(onnx_model(product))
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == len(model.graph.output) == len(product.weights)
    assert check(ReferenceEvaluator(model).run(None, product.feeds()), product)[1]


def test_a_quantized_model_is_requantised() -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    product = make(KINDS["int8"], SHAPE, "constant", 1, 2)
    model = onnx.load_model_from_string(quantized_model(product))
    assert check(ReferenceEvaluator(model).run(None, product.feeds()), product, "int8")[1]


def test_weights_differ() -> None:
    product = make(KINDS["float32"], SHAPE, "constant", 1, 4)
    assert len({weight.tobytes() for weight in product.weights}) == 4


def test_small_products_come_many_in_a_call() -> None:
    kind = KINDS["float32"]
    assert copies_for(Shape(16, 16, 16), kind, "constant", 1e11, 1e10) == MOST_PRODUCTS
    assert copies_for(Shape(1024, 1024, 1024), kind, "constant", 1e11, 1e10) == 1
    assert copies_for(Shape(16, 16, 16), kind, "input", 1e11, 1e10) == 1
    # As long as its weights take to read.
    assert copies_for(Shape(1, 1000, 1000), kind, "constant", 1e11, 1e10) == 3
    assert copies_for(Shape(128, 1024, 1024), kind, "cold", 1e11, 1e10) == COLD_BYTES >> 22


def test_cold_shapes_are_large_weights_each_once() -> None:
    asked = (Shape(1024, 1024, 1024), Shape(128, 1024, 1024), Shape(1, 1024, 1024), Shape(64, 64, 64))
    assert cold_shapes(asked, KINDS["float32"]) == (Shape(128, 1024, 1024), Shape(1, 1024, 1024))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", ["constant", "input"])
def test_contestants_are_right_or_say_why_not(name: str, form: str) -> None:
    product = make(KINDS[name], Shape(17, 32, 48), form, 1, 2 if form == "constant" else 1)
    competing = []
    for contestant, build in builders(product, installed(CONTESTANTS)).items():
        try:
            entry = build()
        except peers.Unsupported as reason:
            assert str(reason)
            continue
        found = [np.array(result) for result in entry.read(entry.call())]
        error, right = check(found, product, entry.output)
        assert right or contestant != "sansuan", (contestant, error)
        competing.append(contestant)
    assert competing


def test_who_is_far_slower_than_the_fastest_is_not_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from bench import gemm
    from bench.product_contestants import Entry

    product = make(KINDS["float32"], SHAPE, "constant", 1, 1)

    def entry(seconds: float, wrong: bool = False) -> Entry:
        def call() -> list[np.ndarray]:
            time.sleep(seconds)
            return [c + wrong for c in results(product)]

        return Entry(call)

    found = {"fast": entry(0.0), "slow": entry(0.3), "wrong": entry(0.0, wrong=True)}
    monkeypatch.setattr(gemm, "builders", lambda *_: {name: lambda made=made: made for name, made in found.items()})
    monkeypatch.setattr(gemm, "SLOW_RATIO", 2.0)
    ready, errors, lasting, refused = gemm.prepare(product, list(found))
    assert list(ready) == list(errors) == list(lasting) == ["fast"]
    assert refused["slow"].startswith("slow") and refused["wrong"].startswith("wrong")
