"""`python -m bench gemm`: one matrix product on every backend, in percent of this machine's own peak.

With `constant` B everybody may prepare B beforehand (a model's weight); with `input` B everybody gets two plain arrays.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench import peers
from bench.contest import Call, Contest, hold
from bench.report import Report

OPSET = 20
SHAPES = (
    "256x256x256", "512x512x512", "1024x1024x1024", "2048x2048x2048", "128x768x768", "128x3072x768", "128x768x3072",
    "1x4096x4096",
)  # fmt: skip
SAMPLED_ROWS = 16


@dataclass(frozen=True)
class Product:
    """a [M, K] @ b [K, N]. `constant`: b may be prepared beforehand."""

    a: np.ndarray
    b: np.ndarray
    constant: bool
    threads: int

    def onnx(self) -> bytes:
        """A model of one MatMul, b its weight or its second input."""
        from onnx import helper, numpy_helper

        kind = helper.np_dtype_to_tensor_dtype(self.a.dtype)
        operands = [helper.make_tensor_value_info("a", kind, self.a.shape)]
        if not self.constant:
            operands.append(helper.make_tensor_value_info("b", kind, self.b.shape))
        result = helper.make_tensor_value_info("c", kind, (self.a.shape[0], self.b.shape[1]))
        weights = [numpy_helper.from_array(self.b, "b")] if self.constant else []
        graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "gemm", operands, [result], weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        ).SerializeToString()

    def feeds(self) -> dict[str, np.ndarray]:
        return {"a": self.a} if self.constant else {"a": self.a, "b": self.b}


def via_sansuan(product: Product) -> Call:
    """A compiled program for a constant b, `runtime.matmul` for two arrays."""
    import runtime

    if not product.constant:
        return lambda: runtime.matmul(product.a, product.b, threads=product.threads)
    program = runtime.compile(product.onnx(), threads=product.threads)
    return lambda: program(product.a)[0]


def via_numpy(product: Product) -> Call:
    """NumPy's BLAS; it has no prepared form."""
    return lambda: product.a @ product.b


def via_torch(product: Product) -> Call:
    """torch.mm in eager mode; it has no prepared form."""
    import torch

    a, b = torch.from_numpy(product.a), torch.from_numpy(product.b)
    mm = peers.torch_eager(torch.mm, product.threads)
    return lambda: mm(a, b)


def via_onnxruntime(product: Product) -> Call:
    run, feeds = peers.onnxruntime(product.onnx(), product.threads), product.feeds()
    return lambda: run(feeds)[0]


def via_openvino(product: Product) -> Call:
    run, feeds = peers.openvino(product.onnx(), product.threads), product.feeds()
    return lambda: run(feeds)[0]


CONTESTANTS: dict[str, Callable[[Product], Call]] = {
    "sansuan": via_sansuan,
    "onnxruntime": via_onnxruntime,
    "openvino": via_openvino,
    "torch": via_torch,
    "numpy": via_numpy,
}


def check(result: np.ndarray, product: Product) -> tuple[float, bool]:
    """The relative error against a product of higher precision (long double for float64, on some rows), and whether it
    is within what a chain of K fused multiply-adds explains: rounding errors add up like a random walk."""
    wide = np.float64 if product.a.dtype == np.float32 else np.longdouble
    rows = np.unique(np.linspace(0, product.a.shape[0] - 1, SAMPLED_ROWS).astype(int))
    truth = product.a[rows].astype(wide) @ product.b.astype(wide)
    if result.shape != (product.a.shape[0], product.b.shape[1]):
        return float("inf"), False
    error = float(np.linalg.norm(result[rows] - truth) / np.linalg.norm(truth))
    bound = 2 * np.finfo(product.a.dtype).eps * np.sqrt(product.a.shape[1])
    return error, error <= bound


def contest(product: Product) -> Contest:
    """The product as something to compete in."""
    (m, k), n = product.a.shape, product.b.shape[1]
    form = "constant" if product.constant else "input"
    return Contest(
        title=f"{m}x{n}x{k} (MxNxK), {form} B",
        fields={"m": m, "n": n, "k": k, "b": form},
        dtype=product.a.dtype.name,
        threads=product.threads,
        flops=2 * m * n * k,
        check=lambda result: check(np.asarray(result), product),
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="float32,float64", help="comma-separated (default: %(default)s)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="MxNxK, comma-separated (default: %(default)s)")
    parser.add_argument("--b", default="constant,input", help="constant, input or both (default: %(default)s)")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help="default: %(default)s")


def run(options: argparse.Namespace, report: Report) -> None:
    """Every product asked for, in turn."""
    from threadpoolctl import threadpool_limits

    names = [name for name in options.contestants.split(",") if name == "sansuan" or peers.installed(name)]
    rng = np.random.default_rng(0)
    for threads in options.threads:
        with threadpool_limits(threads, user_api="blas"):
            for dtype in options.dtype.split(","):
                for shape in options.shapes.split(","):
                    m, n, k = map(int, shape.split("x"))
                    a, b = (rng.standard_normal(size).astype(dtype) for size in ((m, k), (k, n)))
                    for form in options.b.split(","):
                        product = Product(a, b, form == "constant", threads)
                        builders = {name: partial(CONTESTANTS[name], product) for name in names}
                        hold(contest(product), builders, options.rounds, report)
