"""Rows of ONNX's ml domain against the onnx package's own operators; none of them may leave a Host step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, reference

import runtime as sansuan

RNG = np.random.default_rng(5)
X = RNG.standard_normal((7, 4)).astype(np.float32)
WHOLE = RNG.integers(-3, 4, (7, 4))
X[0, 1] = X[3, 2] = 0.5
HOLES = np.where(X > 1, np.nan, X).astype(np.float32)

# Two trees of named nodes: 0 -> (1, 2), 1 -> (3, 4); 0 -> (1, 2).
NODES: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 2, 0, 0, 0, 1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_GT", *["LEAF"] * 3, "BRANCH_LT", *["LEAF"] * 2],
    "nodes_values": [0.25, -0.5, 0, 0, 0, 0.5, 0, 0],
    "nodes_truenodeids": [1, 3, 0, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [2, 4, 0, 0, 0, 2, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 1, 0, 0],
}
LEAVES = {"treeids": [0, 0, 0, 1, 1], "nodeids": [2, 3, 4, 1, 2], "weights": [1.5, -2, 0.25, 3, -0.125]}


def leaves(what: str, ids: list[int]) -> dict[str, Any]:
    return {f"{what}_{key}": value for key, value in {**LEAVES, "ids": ids}.items()}


REGRESSOR = {**NODES, **leaves("target", [0, 1, 0, 1, 0]), "n_targets": 2}
CLASSES = {**NODES, **leaves("class", [0, 1, 2, 1, 0]), "classlabels_int64s": [3, 5, 9]}
BINARY = {**NODES, **leaves("class", [0] * 5), "classlabels_int64s": [0, 1]}
COEFFICIENTS = RNG.standard_normal(12).astype(np.float32).tolist()
CASES: dict[str, tuple[str, dict[str, Any], tuple[np.ndarray, ...]]] = {
    "binarizer": ("Binarizer", {"threshold": 0.5}, (X,)),
    "scaler": ("Scaler", {"offset": [1.0, 2, 3, 4], "scale": [0.5]}, (X,)),
    **{f"normalizer {norm}": ("Normalizer", {"norm": norm}, (X,)) for norm in ("MAX", "L1", "L2")},
    "imputer": ("Imputer", {"imputed_value_floats": [1.0, 2, 3, 4], "replaced_value_float": float("nan")}, (HOLES,)),
    "imputer of zeros": ("Imputer", {"imputed_value_int64s": [9], "replaced_value_int64": 0}, (WHOLE,)),
    "feature vectorizer": ("FeatureVectorizer", {"inputdimensions": [4, 2, 6]}, (X, X, X)),
    "one hot": ("OneHotEncoder", {"cats_int64s": [-1, 0, 2], "zeros": 1}, (WHOLE,)),
    "features": ("ArrayFeatureExtractor", {}, (X, np.array([3, 0, 3]))),
    "features of a vector": ("ArrayFeatureExtractor", {}, (X[0], np.array([[1, 2]]))),
    "labels": ("LabelEncoder", {"keys_int64s": [2, -1, 7], "values_floats": [0.5, 1.5, 2.5]}, (WHOLE,)),
    "linear regressor": ("LinearRegressor",
                         {"coefficients": COEFFICIENTS, "intercepts": [1.0, 2, 3], "targets": 3}, (X,)),
    **{f"linear classifier {post}": ("LinearClassifier", {"coefficients": COEFFICIENTS, "intercepts": [1.0, 0, -1],
                                     "classlabels_ints": [4, 2, 7], "post_transform": post}, (X,))
       for post in ("NONE", "LOGISTIC", "SOFTMAX")},
    "two classes": ("LinearClassifier", {"coefficients": COEFFICIENTS[:4], "intercepts": [0.5],
                    "classlabels_ints": [0, 1], "post_transform": "LOGISTIC"}, (X,)),
    **{f"trees {aggregate}": ("TreeEnsembleRegressor", {**REGRESSOR, "aggregate_function": aggregate}, (HOLES,))
       for aggregate in ("SUM", "AVERAGE", "MIN", "MAX")},
    "trees with base values": ("TreeEnsembleRegressor", {**REGRESSOR, "base_values": [10.0, 20.0]}, (X,)),
    **{f"tree classes {post}": ("TreeEnsembleClassifier", {**CLASSES, "post_transform": post}, (HOLES,))
       for post in ("NONE", "SOFTMAX", "LOGISTIC")},
    **{f"tree binary {post}": ("TreeEnsembleClassifier", {**BINARY, "post_transform": post}, (X,))
       for post in ("NONE", "LOGISTIC")},
}  # fmt: skip


def model_of(op: str, attrs: dict[str, Any], arrays: tuple[np.ndarray, ...], version: int) -> ModelProto:
    outputs = ["y", "scores"] if op.endswith("Classifier") else ["y"]
    names = [f"x{i}" for i in range(len(arrays))]
    node = helper.make_node(op, names, outputs, domain="ai.onnx.ml", **attrs)
    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    inputs = [
        helper.make_tensor_value_info(name, kind, array.shape)
        for name, kind, array in zip(names, kinds, arrays, strict=True)
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(helper.make_graph([node], "g", inputs, results), opset_imports=opsets)


def check(model: ModelProto, arrays: tuple[np.ndarray, ...]) -> None:
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    expected = reference.ReferenceEvaluator(model).run(None, feeds)
    program = sansuan.compile(model)
    found = program(*arrays)
    assert "on the host" not in program.explain()
    for ours, theirs in zip(found if isinstance(found, (tuple, list)) else [found], expected, strict=True):
        assert ours.shape == np.shape(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_row_gives_what_the_operator_gives(name: str) -> None:
    op, attrs, arrays = CASES[name]
    check(model_of(op, attrs, arrays, 3), arrays)


@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_trees_with_sets(aggregate: int) -> None:
    def tensor(values: Any, dtype: Any = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.array(values, dtype))

    attrs = {
        "tree_roots": [0, 2],
        "nodes_modes": tensor([6, 0, 6, 4], np.uint8),
        "nodes_featureids": [0, 1, 2, 3],
        "nodes_splits": tensor([0, 0.5, 0, 2]),
        "nodes_truenodeids": [1, 0, 2, 3],
        "nodes_trueleafs": [0, 1, 1, 1],
        "nodes_falsenodeids": [1, 1, 3, 4],
        "nodes_falseleafs": [1, 1, 0, 1],
        "membership_values": tensor([1, -2, 3, np.nan, 2, -1, np.nan]),
        "leaf_targetids": [0, 1, 0, 1, 0],
        "leaf_weights": tensor([1.5, -2, 0.25, 3, -0.125]),
        "n_targets": 2,
        "aggregate_function": aggregate,
    }
    check(model_of("TreeEnsemble", attrs, (WHOLE.astype(np.float32),), 5), (WHOLE.astype(np.float32),))


def test_strings_stay_with_the_reference_operator() -> None:
    model = model_of("LabelEncoder", {"keys_int64s": [1], "values_strings": ["one"]}, (WHOLE,), 3)
    program = sansuan.compile(model)
    assert set(program(WHOLE)[0].reshape(-1)) == {"one", "_Unused"}
    assert "on the host" in program.explain()
