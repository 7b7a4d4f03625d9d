"""What runtime.matmul refuses, and the words it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import runtime

F = np.ones((2, 3))


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "words"),
    [
        (F, F, {}, runtime.ShapeError, r"K differs, 3 \(last axis of a, shape \(2, 3\)\) against 2 \(axis -2 of b"),
        (F, np.ones(2), {}, runtime.ShapeError, r"against 2 \(axis 0 of b"),
        (np.ones((2, 2, 3)), np.ones((3, 3, 2)), {}, runtime.ShapeError, r"batch axes \(2,\) of a and \(3,\) of b"),
        (np.float64(2), F, {}, runtime.ShapeError, "at least one axis"),
        (F, 3.0, {}, runtime.ShapeError, "at least one axis"),
        ([[1.0], [2.0, 3.0]], F, {}, runtime.ShapeError, "a is no array"),
        (F > 0, F.T > 0, {}, runtime.DtypeError, r"a is bool, expected one of float64.*astype\('uint8'\)"),
        (F, F.T > 0, {}, runtime.DtypeError, "b is bool"),
        (F, F.T.astype(np.float32), {}, runtime.DtypeError, r"a is float64, b is float32.*astype\('float64'\)"),
        (F.astype(np.int32), F.T.astype(np.int64), {}, runtime.DtypeError, r"one type.*astype\('int64'\)"),
        (F.astype(np.int8), F.T.astype(np.int32), {}, runtime.DtypeError, "a is int8, b is int32"),
        (F.astype(np.int16), F.T.astype(np.int16), {}, runtime.DtypeError, r"a is int16.*astype\('int32'\)"),
        (F.astype(complex), F.T, {}, runtime.DtypeError, "a is complex128"),
        (F.astype(object), F.T, {}, runtime.DtypeError, "a is object"),
        (F.astype("U3"), F.T, {}, runtime.DtypeError, "a is <U3"),
        (F.astype("M8[s]"), F.T, {}, runtime.DtypeError, "a is datetime64"),
        (F, F.T, {"precision": "bf16"}, runtime.DtypeError, "precision 'bf16' is none of fp64, fp32"),
        (F, F.T, {"precision": ["fp64"]}, runtime.DtypeError, "is none of"),
        (F.astype(int), F.T.astype(int), {"precision": "fp64"}, runtime.DtypeError, "it is for floats"),
        (F, F.T, {"threads": 0}, ValueError, "expected at least 1"),
    ],
)  # fmt: skip
def test_refused(a: Any, b: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    for _ in range(2):
        with pytest.raises(error, match=words):
            runtime.matmul(a, b, **options)
        runtime.matmul(F, F.T)
        runtime.matmul(F, np.ones(3))


def test_arguments_are_those_of_the_signature() -> None:
    with pytest.raises(TypeError):
        runtime.matmul(F, F.T, np.empty((2, 2)))  # type: ignore[misc]
    with pytest.raises(TypeError):
        runtime.matmul(F)  # type: ignore[call-arg]
