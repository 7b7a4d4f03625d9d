"""Operands of products in many layouts, and what their products should be."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import runtime

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int32", "int64", "uint32", "uint64")
BYTES = ("int8", "uint8")
LAYOUTS = (
    "dense", "transposed", "rows", "columns", "padded", "reversed", "mirrored", "broadcast", "swapped bytes",
    "unaligned", "read only", "fortran", "field",
)  # fmt: skip
ERRORS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random elements: of floats near 1, of integers all there are."""
    kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    if dtype in FLOATS:
        return rng.standard_normal(shape).astype(kind)
    return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)


def lay(x: np.ndarray, layout: str) -> np.ndarray:
    """`x`, or (broadcast) its first elements repeated, in a layout."""
    if x.ndim == 0 or layout == "dense":
        return x
    if layout == "transposed":
        return x.swapaxes(0, -1).copy().swapaxes(0, -1) if x.ndim != 3 else x.swapaxes(1, 2).copy().swapaxes(1, 2)
    if layout in ("rows", "columns", "padded"):
        axes = {"rows": (-2,), "columns": (-1,), "padded": range(x.ndim)}[layout]
        axes = [axis % x.ndim for axis in axes if axis >= -x.ndim]
        larger = np.zeros([2 * size + 3 if axis in axes else size for axis, size in enumerate(x.shape)], x.dtype)
        step = 1 if layout == "padded" else 2
        part = tuple(slice(1, 1 + step * n, step) if i in axes else slice(None) for i, n in enumerate(x.shape))
        larger[part] = x
        return larger[part]
    if layout == "reversed":  # rows and batches the other way round, columns as they are
        turned = tuple(slice(None, None, -1) for _ in range(max(x.ndim - 1, 1)))
        return x[turned].copy()[turned]
    if layout == "mirrored":
        return x[..., ::-1].copy()[..., ::-1]
    if layout == "broadcast":
        return np.broadcast_to(x[:1], x.shape)
    if layout == "swapped bytes":
        return x.astype(x.dtype.newbyteorder("S")) if x.dtype != BFLOAT16 else x
    if layout == "unaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
        return raw[1:].view(x.dtype).reshape(x.shape)
    if layout == "read only":
        x = x.copy()
        x.flags.writeable = False
        return x
    if layout == "fortran":
        return np.asfortranarray(x)
    assert layout == "field"
    records = np.zeros(x.shape, np.dtype([("tag", np.uint8), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product in higher precision, or as integers wrap."""
    if a.dtype.kind in "iu" and a.dtype.itemsize == 1:
        return np.matmul(a.astype(np.int32), b.astype(np.int32))
    if a.dtype.kind in "iu":
        native = a.dtype.newbyteorder("=")
        return np.matmul(a.astype(native), b.astype(native))
    wide = np.longdouble if a.dtype.itemsize == 8 else np.float64
    return np.matmul(a.astype(wide), b.astype(wide))


def check(a: np.ndarray, b: np.ndarray, **options: Any) -> Any:
    """Multiply, compare, and return the product."""
    found = runtime.matmul(a, b, **options)
    expected = exact(a, b)
    one_type = expected.dtype if a.dtype.itemsize == 1 else a.dtype.newbyteorder("=")
    assert found.dtype == one_type
    assert np.shape(found) == expected.shape
    if found.dtype.kind in "iu":
        assert np.array_equal(found, expected)
        return found
    wide = expected.dtype
    depth = a.shape[-1]
    size = np.matmul(np.abs(a.astype(wide)), np.abs(b.astype(wide)))
    sums = ERRORS["float64"] if a.dtype.itemsize == 8 else ERRORS["float32"]
    bound = size * sums * (depth + 2) + np.abs(expected) * ERRORS[found.dtype.name] + 1e-7 * (found.dtype.itemsize == 2)
    assert np.all(np.abs(found.astype(wide) - expected) <= bound)
    return found
