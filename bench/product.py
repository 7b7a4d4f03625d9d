"""Matrix products as every contestant gets them: operands, how many and how B comes, the ONNX model, what is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from bench.shapes import Shape

OPSET, IR_VERSION = 21, 10
FORMS = ("constant", "input", "cold")
COLD_BYTES = 300 << 20  # of weights: far beyond caches
COLD_ROWS = 128
CALL_SECONDS = 1e-3  # a call of a program lasts about that long at least ...
MOST_PRODUCTS = 64  # ... or does so many products
LEAST_COLD_WEIGHT = 512 << 10  # smaller ones would make a program of thousands of products
BYTES = np.arange(-128.0, 128.0)
SAMPLED_ROWS, SAMPLED_COLUMNS, SAMPLED_PRODUCTS = 16, 256, 3


@dataclass(frozen=True)
class Kind:
    """A type of product as --dtype names it: element types of A, B and C, and of what C is checked against."""

    name: str
    a: np.dtype
    b: np.dtype
    c: np.dtype
    wide: type

    @property
    def is_integer(self) -> bool:
        return self.c.kind == "i"

    @property
    def peak(self) -> str:
        """The element type whose peak bounds it."""
        return self.a.name


KINDS = {
    kind.name: kind
    for kind in (
        Kind("float64", *(np.dtype(np.float64),) * 3, np.longdouble),
        Kind("float32", *(np.dtype(np.float32),) * 3, np.float64),
        Kind("bfloat16", *(np.dtype(ml_dtypes.bfloat16),) * 3, np.float64),
        # What runtimes quantize to: activations without sign, weights with one.
        Kind("int8", np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int32), np.float64),
        Kind("int8-signed", np.dtype(np.int8), np.dtype(np.int8), np.dtype(np.int32), np.float64),
    )
}


@dataclass(frozen=True)
class Product:
    """a [M, K] @ each of `weights` [K, N], independent of each other; `form` says how B comes: `constant` and `cold`
    may be prepared beforehand, `input` is a second plain array."""

    kind: Kind
    form: str
    threads: int
    a: np.ndarray
    weights: tuple[np.ndarray, ...] = field(repr=False)

    @property
    def shape(self) -> Shape:
        return Shape(self.a.shape[0], self.weights[0].shape[1], self.a.shape[1])

    @property
    def constant(self) -> bool:
        return self.form != "input"

    @property
    def weight_bytes(self) -> int:
        """Of all weights together: what a call reads of B."""
        return sum(weight.nbytes for weight in self.weights)

    @property
    def intensity(self) -> float:
        """Operations a byte, A, B and C each touched once."""
        shape = self.shape
        return shape.operations / (self.a.nbytes + self.weights[0].nbytes + shape.m * shape.n * self.kind.c.itemsize)

    @cached_property
    def scale(self) -> float:
        """What a requantised int8 product is divided by: a power of two, so that rounding is the only error."""
        spread = math.sqrt(self.shape.k * np.mean(np.square(self.a, dtype=np.float64)) * np.mean(BYTES**2))
        return 2.0 ** math.ceil(math.log2(4 * spread / BYTES.max()))

    def feeds(self) -> dict[str, np.ndarray]:
        """The inputs of `onnx_model`."""
        return {"a": self.a} if self.constant else {"a": self.a, "b0": self.weights[0]}


def make(kind: Kind, shape: Shape, form: str, threads: int, copies: int) -> Product:
    """A product of random numbers, the same in every run; the bytes of an int8 one have all their values."""
    rng = np.random.default_rng(0)

    def operand(dtype: np.dtype, size: int) -> np.ndarray:
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max, size, dtype, endpoint=True)
        drawn = rng.standard_normal(size, np.float64 if dtype == np.float64 else np.float32)
        return drawn.astype(dtype, copy=False)

    numbers = operand(kind.b, shape.k * shape.n + copies)
    weights = [numbers[copy : copy + shape.k * shape.n].reshape(shape.k, shape.n).copy() for copy in range(copies)]
    return Product(kind, form, threads, operand(kind.a, shape.m * shape.k).reshape(shape.m, shape.k), tuple(weights))


def copies_for(shape: Shape, kind: Kind, form: str, operations: float, bytes_read: float) -> int:
    """How many products a call does, on a machine that computes and reads memory at these rates."""
    weight = shape.k * shape.n * kind.b.itemsize
    if form == "cold":
        return max(1, round(COLD_BYTES / weight))
    if form == "input":
        return 1
    seconds = max(shape.operations / operations, weight / bytes_read)
    return min(MOST_PRODUCTS, max(1, math.ceil(CALL_SECONDS / seconds)))


def cold_shapes(shapes: Sequence[Shape], kind: Kind) -> tuple[Shape, ...]:
    """Weights of `shapes` worth reading from memory, each once, for at most COLD_ROWS rows."""
    worth = [shape for shape in shapes if shape.n * shape.k * kind.b.itemsize >= LEAST_COLD_WEIGHT]
    return tuple(dict.fromkeys(Shape(min(shape.m, COLD_ROWS), shape.n, shape.k) for shape in worth))


def onnx_model(product: Product) -> bytes:
    """A model of the products: MatMul, or MatMulInteger without zero points; results are c0, c1, ..."""
    from onnx import helper

    operation = "MatMulInteger" if product.kind.is_integer else "MatMul"
    nodes = [helper.make_node(operation, ["a", f"b{i}"], [f"c{i}"]) for i in range(len(product.weights))]
    return _model(product, nodes, product.kind.c, {})


def quantized_model(product: Product) -> bytes:
    """The products as quantizers write them: dequantize, MatMul, quantize to int8. Scales but the last are 1."""
    from onnx import helper

    zeros = {"zero_a": product.kind.a.type(0), "zero_b": product.kind.b.type(0), "zero_c": np.int8(0)}
    values = {**zeros, "one": np.float32(1), "scale": np.float32(product.scale)}
    nodes = [helper.make_node("DequantizeLinear", ["a", "one", "zero_a"], ["a_real"])]
    for i in range(len(product.weights)):
        nodes += [
            helper.make_node("DequantizeLinear", [f"b{i}", "one", "zero_b"], [f"b{i}_real"]),
            helper.make_node("MatMul", ["a_real", f"b{i}_real"], [f"c{i}_real"]),
            helper.make_node("QuantizeLinear", [f"c{i}_real", "scale", "zero_c"], [f"c{i}"]),
        ]
    return _model(product, nodes, np.dtype(np.int8), values)


def _model(product: Product, nodes: Sequence[Any], c: np.dtype, values: dict[str, Any]) -> bytes:
    from onnx import helper, numpy_helper

    def info(name: str, dtype: np.dtype, shape: Sequence[int]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    kind, (m, n) = product.kind, (product.shape.m, product.shape.n)
    inputs = [info("a", kind.a, product.a.shape)]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    if product.constant:
        constants += [numpy_helper.from_array(weight, f"b{i}") for i, weight in enumerate(product.weights)]
    else:
        inputs.append(info("b0", kind.b, product.weights[0].shape))
    outputs = [info(f"c{i}", c, (m, n)) for i in range(len(product.weights))]
    graph = helper.make_graph(list(nodes), "products", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()


def check(results: Sequence[np.ndarray], product: Product, output: str = "") -> tuple[float, bool]:
    """The relative error against products of higher precision, of some rows and columns of the first, the last and a
    product between, and whether each is what it should be. `output`: the type of the results where a contestant gives
    another one than the product's own.

    Integers are exact; int8 has been divided by `scale` and may be one off; a chain of K fused multiply-adds makes
    rounding errors that add up like a random walk, and bfloat16 is rounded to once more, in the end.
    """
    dtype = np.dtype(getattr(ml_dtypes, output, None) or output) if output else product.kind.c
    rows, columns = _sample(product.shape.m, SAMPLED_ROWS), _sample(product.shape.n, SAMPLED_COLUMNS)
    a = product.a[rows].astype(product.kind.wide)
    if len(results) != len(product.weights):
        return math.inf, False
    worst, right = 0.0, True
    for number in _sample(len(results), SAMPLED_PRODUCTS):
        found = np.asarray(results[number])
        if found.shape != (product.shape.m, product.shape.n) or found.dtype != dtype:
            return math.inf, False
        truth = a @ product.weights[number][:, columns].astype(product.kind.wide)
        part = found[np.ix_(rows, columns)].astype(product.kind.wide)
        if dtype == np.int8:
            part, truth = part * product.scale, np.clip(truth, -128 * product.scale, 127 * product.scale)
        error = _relative(part - truth, truth)
        worst = max(worst, error)
        right &= _allowed(part - truth, error, dtype, product)
    return worst, right


def _allowed(difference: np.ndarray, error: float, dtype: np.dtype, product: Product) -> bool:
    if dtype == np.int8:
        return bool(np.abs(difference).max() <= product.scale)
    if dtype.kind == "i":
        return error == 0
    rounded = float(ml_dtypes.finfo(dtype).eps) if dtype.itemsize < 4 else 0.0
    chain = float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps) * math.sqrt(product.shape.k)
    return error <= rounded / 2 + 2 * chain


def _relative(difference: np.ndarray, truth: np.ndarray) -> float:
    error = float(np.linalg.norm(difference)) / (float(np.linalg.norm(truth)) or 1.0)
    return math.inf if math.isnan(error) else error


def _sample(size: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, most).astype(int))
