"""Whether products pay in fewer bits, node by node: `python -m bench.narrow_nodes [--models ..] [--precisions ..]`.

Every distinct product of the models (weights, sizes, form) is a program of its own, float32 in and out, once as written
and once in each precision: conversions of its operand and result are counted in full, although in a model most of them
are fused with what surrounds the product. The ratio is time over the time as written, paired by round; products that
the policy leaves as written have none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.native.executable import Executable
from backends.native.target import host
from bench import environment
from bench.compare import race, ratio
from bench.report import seconds, table
from bench.workload import WORKLOADS, load
from compiler.builder import Builder
from compiler.frontends import onnx
from compiler.ir import Graph
from compiler.passes.fuse_products import leading
from compiler.passes.narrow import sites
from compiler.passes.specialize import specialize
from compiler.pipeline import lower_graph, optimize
from compiler.policy import Policy
from runtime.options import Options

COLUMNS = ("product", "as written", "precision", "time", "time / as written [quartiles]", "remark")


@dataclass(frozen=True, eq=False)
class Product:
    """A product alone: its graph and what it is."""

    title: str
    graph: Graph

    def call(self, precision: str, threads: int) -> tuple[Callable[[], object], str]:
        """The product in a precision, on an input of its size, and what the ledger remarks on it."""
        lowered = lower_graph(self.graph.with_policy(Policy(precision)))
        executable = Executable(lowered, host(), Options.resolve(threads))
        rng = np.random.default_rng(0)
        shapes: list[Any] = [value.type.shape for value in self.graph.inputs]  # type: ignore[union-attr]
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        return lambda: executable.run(arrays), "; ".join(lowered.remarks.values())


def products(model: str) -> Iterator[Product]:
    """The distinct products of a workload, with weights."""
    work = load(model, False)
    graph = onnx.load(work.onnx)
    fused = optimize(specialize(graph, [array.shape for array in work.arrays]))
    met = set()
    for site in sites(fused):
        node = site.node
        if node.op not in ("matmul", "conv"):
            continue
        b = Builder()
        operands = [
            None if value is None
            else b.constant(fused.constants[value.name], value.name) if value.name in fused.constants
            else b.input(value.name, value.type)
            for value in node.inputs[: leading(node)]
        ]  # fmt: skip
        shapes = tuple(None if value is None else value.type.shape for value in operands)  # type: ignore[union-attr]
        attrs = {key: item for key, item in node.attrs.items() if key not in ("epilogue", "fill")}
        key = (node.op, shapes, str(attrs))
        if key in met or len(b.inputs) != 1:
            continue
        met.add(key)
        with b.at(site.name):
            result = b.emit(node.op, *operands, **attrs)
        yield Product(f"{model} {node.op} {shapes[0]} x {shapes[1]}", b.finish([result]))


def main(arguments: list[str] | None = None) -> None:
    """Print the table, worst ratio first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bert-base,minilm,gpt,resnet50,mlp", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--precisions", default="bf16,int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    rows = []
    for model in options.models.split(","):
        for product in products(model):
            rows += _rows(product, options.precisions.split(","), options.threads, options.rounds)
    rows.sort(key=lambda row: row[0], reverse=True)
    print(environment.header(environment.describe()))
    print(table("Products in fewer bits", COLUMNS, [cells for _, cells in rows], left=3))


def _rows(product: Product, precisions: list[str], threads: int, rounds: int) -> list[tuple[float, list[str]]]:
    calls, remarks = {"fp32": product.call("fp32", threads)[0]}, {}
    for precision in precisions:
        call, remarks[precision] = product.call(precision, threads)
        if not remarks[precision]:
            calls[precision] = call
    timings = race(calls, rounds)
    written, found = seconds(timings["fp32"].median), []
    for precision in precisions:
        if precision in timings:
            compared = ratio(timings[precision], timings["fp32"])
            cells = [product.title, written, precision, seconds(timings[precision].median), str(compared), ""]
            found.append((compared.median, cells))
        else:
            found.append((0.0, [product.title, written, precision, "-", "-", remarks[precision]]))
    return found


if __name__ == "__main__":
    main()
