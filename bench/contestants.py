"""Who runs whole models, in which precisions, and what each is given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import peers
from bench.contest import Call, Entrant
from bench.peers import Unsupported
from bench.workload import Workload


@dataclass(frozen=True)
class Contestant:
    """build: from a workload and a thread count to a call; raises Unsupported. runtime: whose it is. given: what it is
    made from. kind: of INT8, whether it was calibrated with data ("calibrated") or not ("dynamic"); rows of one kind
    are compared."""

    build: Callable[[Workload, int], Call]
    runtime: str
    given: str
    kind: str = ""


def sansuan(work: Workload, threads: int) -> Call:
    """Compiled from the ONNX file, in the precision asked for."""
    return _program(work, threads, work.onnx, _asked(work))


def sansuan_torch(work: Workload, threads: int) -> Call:
    """Compiled from the torch module, called with tensors."""
    import runtime

    program = runtime.compile(work.module, work.inputs, precision=_asked(work), threads=threads)
    return lambda: program(*work.inputs)


def sansuan_calibrated(work: Workload, threads: int) -> Call:
    """Compiled with what the samples tell: ranges known before where one is enough, smoothing, rounding."""
    import runtime

    return _program(work, threads, work.onnx, runtime.calibrate(work.onnx, work.samples))


def sansuan_ort_dynamic(work: Workload, threads: int) -> Call:
    """Compiled from the file ONNX Runtime quantized, as it stands."""
    return _program(work, threads, work.onnx_dynamic)


def sansuan_ort_qdq(work: Workload, threads: int) -> Call:
    """Compiled from the file ONNX Runtime quantized, as it stands."""
    return _program(work, threads, work.onnx_qdq)


def onnxruntime(work: Workload, threads: int) -> Call:
    run = peers.onnxruntime(work.onnx, threads)
    return lambda: run(work.feeds)


def onnxruntime_bfloat(work: Workload, threads: int) -> Call:
    raise Unsupported("has no bfloat16 kernels on the CPU")


def onnxruntime_dynamic(work: Workload, threads: int) -> Call:
    run = peers.onnxruntime(work.onnx_dynamic, threads)
    return lambda: run(work.feeds)


def onnxruntime_qdq(work: Workload, threads: int) -> Call:
    run = peers.onnxruntime(work.onnx_qdq, threads)
    return lambda: run(work.feeds)


def openvino(work: Workload, threads: int) -> Call:
    """From the ONNX file, told to compute in float32 or bfloat16."""
    if work.precision == "fp64":
        raise Unsupported("computes float64 in FP32")
    run = peers.openvino(work.onnx, threads, "bf16" if work.precision == "bf16" else "f32")
    return lambda: run(work.feeds)


def openvino_qdq(work: Workload, threads: int) -> Call:
    run = peers.openvino(work.onnx_qdq, threads)
    return lambda: run(work.feeds)


def openvino_nncf(work: Workload, threads: int) -> Call:
    run = peers.openvino_nncf(work.onnx, threads, work.samples)
    return lambda: run(work.feeds)


def torch(work: Workload, threads: int) -> Call:
    """The module as it is written."""
    return _eager(work, threads, work.module, work.inputs)


def torch_bfloat(work: Workload, threads: int) -> Call:
    """The module, its weights and its inputs, rounded to bfloat16 beforehand."""
    return _eager(work, threads, *_rounded(work))


def torch_autocast(work: Workload, threads: int) -> Call:
    """The module in float32, torch choosing what to compute in bfloat16."""
    import torch as library

    run = peers.torch_eager(work.module, threads)

    def call() -> Any:
        with library.autocast("cpu", library.bfloat16):
            return run(*work.inputs)

    return call


def torch_dynamic(work: Workload, threads: int) -> Call:
    """The module with its linear layers quantized by torch."""
    return _eager(work, threads, peers.torch_quantized(work.module), work.inputs)


def inductor(work: Workload, threads: int) -> Call:
    module, inputs = _rounded(work) if work.precision == "bf16" else (work.module, work.inputs)
    run = peers.inductor(module, threads)
    return lambda: run(*inputs)


FILE, MODULE, DYNAMIC, QDQ = "ONNX file", "torch module", "ORT dynamic", "ORT QDQ"
WRITTEN = {
    "sansuan": Contestant(sansuan, "sansuan", FILE),
    "sansuan-torch": Contestant(sansuan_torch, "sansuan-torch", MODULE),
    "onnxruntime": Contestant(onnxruntime, "onnxruntime", FILE),
    "openvino": Contestant(openvino, "openvino", FILE),
    "torch": Contestant(torch, "torch", MODULE),
    "inductor": Contestant(inductor, "inductor", MODULE),
}
CONTESTANTS: dict[str, dict[str, Contestant]] = {
    "fp64": WRITTEN,
    "fp32": WRITTEN,
    "bf16": {
        "sansuan": Contestant(sansuan, "sansuan", FILE),
        "sansuan-torch": Contestant(sansuan_torch, "sansuan-torch", MODULE),
        "onnxruntime": Contestant(onnxruntime_bfloat, "onnxruntime", FILE),
        "openvino": Contestant(openvino, "openvino", FILE),
        "torch": Contestant(torch_bfloat, "torch", "bfloat16 module"),
        "torch-autocast": Contestant(torch_autocast, "torch", MODULE),
        "inductor": Contestant(inductor, "inductor", "bfloat16 module"),
    },
    "int8": {
        "sansuan": Contestant(sansuan, "sansuan", FILE, "dynamic"),
        "sansuan-ort-dynamic": Contestant(sansuan_ort_dynamic, "sansuan", DYNAMIC, "dynamic"),
        "onnxruntime-dynamic": Contestant(onnxruntime_dynamic, "onnxruntime", DYNAMIC, "dynamic"),
        "torch-dynamic": Contestant(torch_dynamic, "torch", MODULE, "dynamic"),
        "sansuan-calibrated": Contestant(sansuan_calibrated, "sansuan", FILE, "calibrated"),
        "sansuan-ort-qdq": Contestant(sansuan_ort_qdq, "sansuan", QDQ, "calibrated"),
        "onnxruntime-qdq": Contestant(onnxruntime_qdq, "onnxruntime", QDQ, "calibrated"),
        "openvino-qdq": Contestant(openvino_qdq, "openvino", QDQ, "calibrated"),
        "openvino-nncf": Contestant(openvino_nncf, "openvino", "NNCF", "calibrated"),
    },
}
PACKAGES = {"sansuan": "runtime", "sansuan-torch": "torch", "inductor": "torch"}


def present(names: str) -> list[str]:
    """The runtimes of a comma-separated list whose packages are installed."""
    return [name for name in names.split(",") if peers.installed(PACKAGES.get(name, name))]


def entrants(work: Workload, runtimes: list[str], threads: int) -> dict[str, Entrant]:
    """Those of these runtimes that the workload's precision has, not built yet. One that fails in whatever way raises
    Unsupported, so that a long measurement goes on."""
    return {
        name: Entrant(partial(_build, contestant, work, threads), contestant.given, contestant.kind)
        for name, contestant in CONTESTANTS[work.precision].items()
        if contestant.runtime in runtimes
    }


def _build(contestant: Contestant, work: Workload, threads: int) -> Call:
    try:
        call = contestant.build(work, threads)
        call()
        return call
    except Unsupported:
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        raise Unsupported(f"{type(error).__name__}: {text[:160]}") from error


def _asked(work: Workload) -> str | None:
    """The precision to ask of Sansuan: none where the model is written in it."""
    return work.precision if work.precision in ("bf16", "int8") else None


def _program(work: Workload, threads: int, model: bytes, precision: Any = None) -> Call:
    import runtime

    program = runtime.compile(model, precision=precision, threads=threads)
    return lambda: program(*work.arrays)


def _eager(work: Workload, threads: int, module: Any, inputs: tuple[Any, ...]) -> Call:
    run = peers.torch_eager(module, threads)
    return lambda: run(*inputs)


def _rounded(work: Workload) -> tuple[Any, tuple[Any, ...]]:
    """The module and its inputs in bfloat16."""
    inputs = tuple(x.bfloat16() if x.is_floating_point() else x for x in work.inputs)
    return copy.deepcopy(work.module).bfloat16(), inputs
