"""A whole model as every contestant gets it, in each of the project's precisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bench import quantized
from bench.compare import relative_error
from bench.contest import Contest

# What the benches know by name: the model's name in `models`, and options of its build().
WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert-base", {}),
    "bert-base-b8": ("bert-base", {"batch": 8}),
    "minilm": ("minilm", {}),
    "gpt": ("gpt", {}),
    "resnet50": ("resnet50", {}),
    "mlp": ("mlp", {}),
    "mlp-1024": ("mlp", {"sizes": (256, 1024, 1024, 256), "batch": 64}),
}
SAMPLES = 16  # calls to calibrate with


@dataclass(frozen=True)
class Precision:
    """dtype: the type products are multiplied in. module: the type the model is written in, so also that of the inputs.
    allowed: the relative error of the outputs' norm beyond which a contestant computed something else; what low
    precision costs within it stands beside the times."""

    dtype: str
    module: str
    allowed: float


PRECISIONS: Mapping[str, Precision] = {
    "fp64": Precision("float64", "float64", 1e-12),
    "fp32": Precision("float32", "float32", 1e-5),
    "bf16": Precision("bfloat16", "float32", 0.1),
    "int8": Precision("int8", "float32", 0.5),
}


@dataclass(frozen=True)
class Workload:
    """A torch module, example inputs, and the same as an ONNX file's bytes; the word of PRECISIONS to run it in."""

    name: str
    module: Any
    inputs: tuple[Any, ...]
    onnx: bytes
    precision: str = "fp32"

    @cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(tensor.numpy() for tensor in self.inputs)

    @cached_property
    def feeds(self) -> dict[str, np.ndarray]:
        """The inputs under their names in the ONNX file (a weight is never listed among the graph's inputs)."""
        import onnx

        names = [value.name for value in onnx.load_model_from_string(self.onnx).graph.input]
        return dict(zip(names, self.arrays, strict=True))

    @cached_property
    def samples(self) -> list[dict[str, np.ndarray]]:
        """Feeds to calibrate with: the inputs with their last axis in other orders, the same for all inputs of a call,
        so that a mask stays with its tokens. Not the inputs themselves: a correction found on what is then measured
        makes any error vanish."""
        orders = np.random.default_rng(0)
        found = []
        for _ in range(SAMPLES):
            order = orders.permutation(self.arrays[0].shape[-1])
            found.append({name: np.ascontiguousarray(array[..., order]) for name, array in self.feeds.items()})
        return found

    @cached_property
    def onnx_dynamic(self) -> bytes:
        """The ONNX file quantized by ONNX Runtime, activations as the model runs."""
        return quantized.dynamic(self.onnx)

    @cached_property
    def onnx_qdq(self) -> bytes:
        """The ONNX file quantized by ONNX Runtime, activations to the ranges of the samples."""
        return quantized.qdq(self.onnx, self.samples)

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
        """The relative error of a result against FP64, and whether the precision allows it."""
        error = relative_error(outputs(found), self.truth)
        return error, error <= PRECISIONS[self.precision].allowed

    def contest(self, threads: int) -> Contest:
        """The workload as something to compete in."""
        fields = {"model": self.name, "precision": self.precision}
        return Contest(self.name, fields, PRECISIONS[self.precision].dtype, threads, self.flops, self.check)


def load(name: str, dynamic: bool = False, precision: str = "fp32", **changes: Any) -> Workload:
    """Build a workload of WORKLOADS, written in float64 for "fp64" and else in float32, with changes of its build()'s
    options; `dynamic` leaves batch and sequence open in the ONNX file."""
    import torch

    import models
    from models.export import to_onnx

    model, options = WORKLOADS[name]
    dtype = getattr(torch, PRECISIONS[precision].module)
    module, inputs = models.build(model, **{**options, **changes}, dtype=dtype)
    axes = models.dynamic_axes(model) if dynamic else ()
    return Workload(name, module, inputs, to_onnx(module, inputs, dynamic=axes), precision)


def outputs(result: Any) -> list[np.ndarray]:
    """A result, one tensor or array or a sequence of them, as a list of arrays; bfloat16 tensors, which NumPy does not
    know, as float32."""
    parts = result if isinstance(result, (list, tuple)) else (result,)
    return [np.asarray(part.float() if str(getattr(part, "dtype", "")) == "torch.bfloat16" else part) for part in parts]
