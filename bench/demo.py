"""`make demo`: a trained sentence encoder, compiled from torch and from ONNX.

Embeds real sentences, shows their similarities, the error against FP64, the latency beside torch eager and ONNX
Runtime, and the ledger: what ran, where, in which precision.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import runtime
from bench import environment, peers
from bench.compare import Timing, race, ratio, relative_error
from bench.report import seconds, table
from models import bert, minilm
from models.export import to_onnx

SENTENCES = (
    "The cat is sleeping on the warm windowsill.",
    "A kitten naps in the sunlight by the window.",
    "The central bank raised interest rates by half a point.",
    "Borrowing money became more expensive after the decision.",
    "How do I reverse a list in Python?",
    "Turning a sequence around in a scripting language.",
    "The glacier has lost a third of its ice since 1980.",
    "Mountain ice is melting faster than it did a generation ago.",
)
LEDGER_ROWS = 24
Encoder = Callable[..., Any]  # three int64 [B, S] tensors -> embeddings [B, 384]


def main() -> None:
    """The whole demonstration, from compiling to the ledger."""
    print(environment.header(environment.describe()), "\n")
    module, inputs = minilm.build(SENTENCES)
    onnx = to_onnx(module, inputs, dynamic=bert.DYNAMIC)
    from_torch, seconds_torch = timed(lambda: runtime.compile(module, inputs, dynamic_shapes=dynamic_shapes()))
    from_onnx, seconds_onnx = timed(lambda: runtime.compile(onnx))
    print(f"all-MiniLM-L6-v2: compiled from torch in {seconds(seconds_torch)}, from ONNX in {seconds(seconds_onnx)}")

    encoders: dict[str, Encoder] = {
        "sansuan from torch": from_torch,
        "sansuan from ONNX": lambda *tensors: from_onnx(*(tensor.numpy() for tensor in tensors))[0],
        "torch eager": peers.torch_eager(module, torch.get_num_threads()),
    }
    if peers.installed("onnxruntime"):
        encoders["ONNX Runtime"] = onnxruntime_encoder(onnx)
    show_similarities(np.asarray(from_torch(*inputs)))
    show_errors(encoders, module, inputs)
    for count in (1, len(SENTENCES)):
        show_latency(encoders, minilm.tokenize(SENTENCES[:count]))
    show_ledger(from_onnx)


def dynamic_shapes() -> tuple[dict[int, Any], ...]:
    """Batch and sequence left open, in torch.export's form."""
    dims = {name: torch.export.Dim(name) for axes in bert.DYNAMIC for name in axes.values()}
    return tuple({axis: dims[name] for axis, name in axes.items()} for axes in bert.DYNAMIC)


def onnxruntime_encoder(onnx: bytes) -> Encoder:
    run = peers.onnxruntime(onnx, torch.get_num_threads())
    names = ("input_ids", "attention_mask", "token_type_ids")
    return lambda *tensors: run({name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})[0]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def show_similarities(embeddings: np.ndarray) -> None:
    """Cosine similarity of every pair; embeddings have unit length."""
    numbers = [str(i + 1) for i in range(len(SENTENCES))]
    cosines = embeddings @ embeddings.T
    rows = [
        [f"{number} {sentence}", *(f"{cosine:.2f}" for cosine in row)]
        for number, sentence, row in zip(numbers, SENTENCES, cosines, strict=True)
    ]
    print("\n" + table("Similarity of the sentences", ["", *numbers], rows))


def show_errors(encoders: dict[str, Encoder], module: Any, inputs: tuple[Any, ...]) -> None:
    """Every encoder against this project's NumPy reference in FP64, which torch in FP64 confirms."""
    reference = runtime.compile(module, inputs, backend="reference", precision="fp64")
    truth = [np.asarray(reference(*inputs))]
    wide, _ = minilm.build(SENTENCES, dtype=torch.float64)
    every = {**encoders, "torch eager in FP64": peers.torch_eager(wide, torch.get_num_threads())}
    rows = [[name, f"{relative_error([np.asarray(encode(*inputs))], truth):.1e}"] for name, encode in every.items()]
    print("\n" + table("Error of the embeddings against the NumPy reference in FP64", ["", "error"], rows))


def show_latency(encoders: dict[str, Encoder], inputs: tuple[Any, ...]) -> None:
    """Median latency of interleaved rounds, and how long sansuan took beside each."""
    timings: dict[str, Timing] = race({name: partial(encode, *inputs) for name, encode in encoders.items()})
    ours = timings["sansuan from ONNX"]
    rows = [
        [name, seconds(timing.median), f"{timing.spread:.0%}", str(ratio(ours, timing))]
        for name, timing in timings.items()
    ]
    batch, length = inputs[0].shape
    title = f"Latency, {batch} x {length} tokens, {torch.get_num_threads()} threads"
    print("\n" + table(title, ["", "median", "spread", "sansuan from ONNX / this [quartiles]"], rows))


def show_ledger(program: Any) -> None:
    """What ran: the nodes counted by kernel, and the first rows in full."""
    ledger, statistics = program.ledger(), program.statistics()
    kinds = collections.Counter((row.unit, row.kernel or row.reason) for row in ledger)
    runs: collections.Counter[tuple[str, str]] = collections.Counter()
    for row in ledger:
        runs[row.unit, row.kernel or row.reason] += row.runs
    rows = [[f"{unit}  {what}", str(count), str(runs[unit, what])] for (unit, what), count in kinds.most_common()]
    weights, arena = statistics.weight_bytes / 1e6, statistics.arena_bytes / 1e6
    sizes = f"{statistics.kernels} distinct kernels, {weights:.0f} MB of weights, {arena:.1f} MB of arena"
    print("\n" + table(f"Ledger: {len(ledger)} nodes, {sizes}", ["unit  kernel or reason", "nodes", "runs"], rows))
    columns = ("node", "op", "kernel", "unit", "in_dtype", "acc_dtype", "out_dtype", "runs")
    first = [[str(getattr(row, column)) for column in columns] for row in ledger[:LEDGER_ROWS]]
    print("\n" + table(f"Its first {len(first)} rows", columns, first, left=len(columns) - 1))


if __name__ == "__main__":
    main()
