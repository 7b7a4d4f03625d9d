"""A whole model as every contestant gets it, and the contestants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from bench import peers
from bench.compare import relative_error
from bench.contest import Call, Contest

# Relative error of the outputs' norm beyond which a contestant computed something else.
ALLOWED = {"float32": 1e-5, "float64": 1e-12}

# What the benches know by name: the model's name in `models`, and options of its build().
WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert-base", {}),
    "bert-base-b8": ("bert-base", {"batch": 8}),
    "minilm": ("minilm", {}),
    "gpt": ("gpt", {}),
    "resnet50": ("resnet50", {}),
    "mlp": ("mlp", {}),
    "mlp-fp64": ("mlp", {"sizes": (256, 1024, 1024, 256), "batch": 64, "dtype": "float64"}),
}


@dataclass(frozen=True)
class Workload:
    """A torch module, example inputs, and the same as an ONNX file's bytes."""

    name: str
    module: Any
    inputs: tuple[Any, ...]
    onnx: bytes

    @cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(tensor.numpy() for tensor in self.inputs)

    @cached_property
    def dtype(self) -> str:
        return next(str(parameter.dtype).removeprefix("torch.") for parameter in self.module.parameters())

    @cached_property
    def truth(self) -> list[np.ndarray]:
        """The outputs in FP64 (long double does not exist in torch: an FP64 model is its own truth)."""
        import copy

        import torch

        wide = [x.double() if x.is_floating_point() else x for x in self.inputs]
        with torch.inference_mode():
            return outputs(copy.deepcopy(self.module).double()(*wide))

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of the products in one call, as torch counts them."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self.module(*self.inputs)
        return counter.get_total_flops()

    def check(self, found: Any) -> tuple[float, bool]:
        """The relative error of a result against FP64, and whether the model's precision allows it."""
        error = relative_error(outputs(found), self.truth)
        return error, error <= ALLOWED[self.dtype]

    def contest(self, threads: int) -> Contest:
        """The workload as something to compete in."""
        return Contest(self.name, {"model": self.name}, self.dtype, threads, self.flops, self.check)

    def builders(self, names: list[str], threads: int) -> dict[str, Callable[[], Call]]:
        """The contestants of these names, not built yet."""
        return {name: partial(CONTESTANTS[name], self, threads) for name in names}


def load(name: str, dynamic: bool = False, **changes: Any) -> Workload:
    """Build a workload of WORKLOADS; `dynamic` leaves batch and sequence open in the ONNX file."""
    import torch

    import models
    from models.export import to_onnx

    model, options = WORKLOADS[name]
    options = {**options, **changes}
    if "dtype" in options:
        options["dtype"] = getattr(torch, options["dtype"])
    module, inputs = models.build(model, **options)
    axes = models.dynamic_axes(model) if dynamic else ()
    return Workload(name, module, inputs, to_onnx(module, inputs, dynamic=axes))


def outputs(result: Any) -> list[np.ndarray]:
    """A result, one tensor or array or a sequence of them, as a list of arrays."""
    return [np.asarray(part) for part in (result if isinstance(result, (list, tuple)) else (result,))]


def via_sansuan(work: Workload, threads: int) -> Call:
    """Compiled from the ONNX file."""
    import runtime

    program, arrays = runtime.compile(work.onnx, threads=threads), work.arrays
    return lambda: program(*arrays)


def via_sansuan_torch(work: Workload, threads: int) -> Call:
    """Compiled from the torch module, called with tensors."""
    import runtime

    program = runtime.compile(work.module, work.inputs, threads=threads)
    return lambda: program(*work.inputs)


def via_onnxruntime(work: Workload, threads: int) -> Call:
    run, feeds = peers.onnxruntime(work.onnx, threads), _feeds(work)
    return lambda: run(feeds)


def via_openvino(work: Workload, threads: int) -> Call:
    run, feeds = peers.openvino(work.onnx, threads), _feeds(work)
    return lambda: run(feeds)


def via_torch(work: Workload, threads: int) -> Call:
    run = peers.torch_eager(work.module, threads)
    return lambda: run(*work.inputs)


def via_inductor(work: Workload, threads: int) -> Call:
    run = peers.inductor(work.module, threads)
    return lambda: run(*work.inputs)


CONTESTANTS: dict[str, Callable[[Workload, int], Call]] = {
    "sansuan": via_sansuan,
    "sansuan-torch": via_sansuan_torch,
    "onnxruntime": via_onnxruntime,
    "openvino": via_openvino,
    "torch": via_torch,
    "inductor": via_inductor,
}
PACKAGES = {"sansuan": "runtime", "sansuan-torch": "torch", "inductor": "torch"}


def present(names: str) -> list[str]:
    """The contestants of a comma-separated list whose packages are installed."""
    return [name for name in names.split(",") if peers.installed(PACKAGES.get(name, name))]


def _feeds(work: Workload) -> dict[str, np.ndarray]:
    """The inputs under their names in the ONNX file (a weight is never listed among the graph's inputs)."""
    import onnx

    names = [value.name for value in onnx.load_model_from_string(work.onnx).graph.input]
    return dict(zip(names, work.arrays, strict=True))
