"""Sansuan and the other runtimes on the same matrix products, each by the fastest way its documentation knows.

Several products in a call go through one model; torch and NumPy, which have no compiled form of that, loop in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from bench import peers
from bench.peers import Unsupported
from bench.product import Product, onnx_model, quantized_model


@dataclass(frozen=True)
class Entry:
    """A contestant that is ready. `read` makes arrays of what `call` gives; `output` is their type where it is not the
    product's own; `note` what is particular about it."""

    call: Callable[[], Any]
    read: Callable[[Any], list[np.ndarray]] = list
    output: str = ""
    note: str = ""


def sansuan(product: Product) -> Entry:
    """A compiled program, or `runtime.matmul` for two arrays."""
    import runtime

    if product.constant:
        program = runtime.compile(onnx_model(product), threads=product.threads)
        return Entry(lambda: program(product.a))
    (b,) = product.weights
    return Entry(lambda: [runtime.matmul(product.a, b, threads=product.threads)])


def onnxruntime(product: Product) -> Entry:
    """MatMul, MatMulInteger for integers."""
    run, feeds = peers.onnxruntime(onnx_model(product), product.threads), product.feeds()
    return Entry(lambda: run(feeds))


def openvino(product: Product) -> Entry:
    """MatMul with the precision hint of its type; integers as quantizers write them, results requantised to int8."""
    import openvino as ov

    name = product.kind.name
    if name == "float64":
        raise Unsupported("computes float64 in FP32")
    feeds: Mapping[str, Any] = product.feeds()
    if name == "bfloat16":
        tensors = {key: ov.Tensor(array.view(np.uint16), array.shape, ov.Type.bf16) for key, array in feeds.items()}
        run = peers.openvino(onnx_model(product), product.threads, "bf16")
        # Results are bfloat16 that come under the name of float16, which is as wide.
        return Entry(lambda: run(tensors), lambda found: [array.view(ml_dtypes.bfloat16) for array in found])
    if product.kind.is_integer:
        run = peers.openvino(quantized_model(product), product.threads)
        return Entry(lambda: run(feeds), output="int8", note="requantised to int8")
    run = peers.openvino(onnx_model(product), product.threads)
    return Entry(lambda: run(feeds))


def torch(product: Product) -> Entry:
    """torch.mm; for integers torch._int_mm, which knows signed bytes only."""
    import torch as library

    if product.kind.name == "int8":  # bytes moved by 128: as much work, and what they are moved by can be taken out
        left, moved = (product.a ^ 0x80).view(np.int8), 128
    else:
        left, moved = product.a, 0
    a, weights = _tensor(left), [_tensor(weight) for weight in product.weights]
    multiply = library._int_mm if product.kind.is_integer else library.mm
    run = peers.torch_eager(lambda: [multiply(a, b) for b in weights], product.threads)

    def read(found: list[Any]) -> list[np.ndarray]:
        if not moved:
            return [_array(result) for result in found]
        sums = (moved * b.sum(0, dtype=np.int32) for b in product.weights)
        return [_array(result) + extra for result, extra in zip(found, sums, strict=True)]

    notes = ["int8 x int8"] if moved else []
    return Entry(run, read, note=", ".join([*notes, *_looping(product)]))


def torch_prepacked(product: Product) -> Entry:
    """oneDNN's quantized linear layer on weights it has packed; gives float32."""
    import torch as library

    if not product.kind.is_integer:
        raise Unsupported("torch.mm has no prepared form")
    if not product.constant:
        raise Unsupported("takes weights only")
    shape, onednn = product.shape, library.ops.onednn
    a = _tensor(product.a)
    # It wants [N, K], contiguous: with a transposed view results are wrong.
    packed = [onednn.qlinear_prepack(_tensor(np.ascontiguousarray(b.T)), [shape.m, shape.k]) for b in product.weights]
    scales, zeros = library.ones(shape.n), library.zeros(shape.n, dtype=library.int64)

    def multiply(weight: Any) -> Any:
        return onednn.qlinear_pointwise(
            a, 1.0, 0, weight, scales, zeros, None, 1.0, 0, library.float32, "none", [], ""
        )  # fmt: skip

    run = peers.torch_eager(lambda: [multiply(weight) for weight in packed], product.threads)
    note = ", ".join(["prepacked, gives float32", *_looping(product)])
    return Entry(run, lambda found: [_array(result) for result in found], "float32", note)


def numpy(product: Product) -> Entry:
    """NumPy's BLAS."""
    if product.kind.name not in ("float32", "float64"):
        raise Unsupported("no BLAS for this type")
    return Entry(lambda: [product.a @ b for b in product.weights], note=", ".join(_looping(product)))


CONTESTANTS: dict[str, Callable[[Product], Entry]] = {
    "sansuan": sansuan,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": torch,
    "torch-prepacked": torch_prepacked,
    "numpy": numpy,
}
PACKAGES = {"sansuan": "runtime", "torch-prepacked": "torch"}


def installed(names: Iterable[str]) -> list[str]:
    """Those of the contestants that can be imported."""
    return [name for name in names if peers.installed(PACKAGES.get(name, name))]


def builders(product: Product, names: list[str]) -> dict[str, Callable[[], Entry]]:
    """The contestants of these names, not built yet; one that fails in whatever way raises Unsupported, so that a
    long measurement goes on."""
    return {name: partial(_build, name, product) for name in names}


def _build(name: str, product: Product) -> Entry:
    try:
        entry = CONTESTANTS[name](product)
        entry.call()
        return entry
    except Unsupported:
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        raise Unsupported(f"{type(error).__name__}: {text[:160]}") from error


def _looping(product: Product) -> list[str]:
    return ["in a loop"] if len(product.weights) > 1 else []


def _tensor(array: np.ndarray) -> Any:
    """A tensor on the array's memory: torch reads NumPy's types only."""
    import torch as library

    if array.dtype == ml_dtypes.bfloat16:
        return library.from_numpy(array.view(np.uint16)).view(library.bfloat16)
    return library.from_numpy(array)


def _array(tensor: Any) -> np.ndarray:
    import torch as library

    if tensor.dtype == library.bfloat16:
        return tensor.view(library.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
