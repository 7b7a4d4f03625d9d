"""One family from one front end: compiled, run, and compared with torch in double precision."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

import runtime
from compiler.errors import SansuanError
from models.export import to_onnx
from tests.coverage.case import Builder, Case, Tensors

BOUND = 1e-5
FRONT_ENDS = ("torch", "ONNX")


@dataclass(frozen=True)
class Result:
    """What one family does from one front end.

    error: the largest difference from double precision over all elements of an output, in parts of the exact output's
    largest magnitude; the worst output counts. -1 where nothing ran.
    torch_error: the same of torch's own eager FP32. seconds: runtime.compile with an empty memory, kernels from the
    cache on disk where they are known. failure: "" or one line.
    """

    family: str
    kind: str
    front_end: str
    dynamic: str = ""
    error: float = -1.0
    torch_error: float = -1.0
    host_steps: int = -1
    cuts: int = -1
    kernels: int = -1
    seconds: float = -1.0
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Right, and without Host steps or cuts."""
        return not self.failure and self.host_steps == 0 and self.cuts == 0


class InDouble(TorchFunctionMode):
    """Every float32 that a module asks for by name is float64 instead: norms and rotary embeddings often do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        return func(*map(_doubled, args), **{key: _doubled(value) for key, value in (kwargs or {}).items()})


def measure(family: str, kind: str, build: Builder, front_end: str) -> Result:
    """The family's result; whatever goes wrong is in `failure`."""
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        case = build()
        varying = ", ".join(dict.fromkeys(name for axes in case.dynamic for name in map(_size_name, axes.values())))
        program_from = _from_torch if front_end == "torch" else _from_onnx
        if front_end == "ONNX" and case.onnx:
            return Result(family, kind, front_end, varying, failure=f"not tried: {case.onnx}")
        program, seconds = program_from(case)
        runs = [case.inputs] if case.other is None else [case.inputs, case.other]
        errors = [_compare(case, program, inputs) for inputs in runs]
    except Exception as error:
        return Result(family, kind, front_end, failure=_line(error), seconds=time.perf_counter() - start)
    host = len([row for row in program.ledger() if row.unit == "host"])
    cuts = len([line for line in program.explain().partition("\ncuts: ")[2].splitlines()[1:] if line.strip()])
    worst, own = max(found for found, _ in errors), max(own for _, own in errors)
    wrong = "" if worst <= BOUND else f"error {worst:.1e} exceeds {BOUND:.0e}"
    statistics = program.statistics()
    varying += " (respecialized)" if program._specialized else ""
    kernels = statistics.kernels if statistics else 0
    return Result(family, kind, front_end, varying, worst, own, host, cuts, kernels, seconds, wrong)


def _from_torch(case: Case) -> tuple[runtime.Program, float]:
    start = time.perf_counter()
    program = runtime.compile(case.module, case.inputs, dynamic_shapes=case.dynamic or None)
    return program, time.perf_counter() - start


def _from_onnx(case: Case) -> tuple[runtime.Program, float]:
    _choose_experts(case.module, "batched_mm")  # the exporter knows no grouped products
    try:
        data = to_onnx(case.module, case.inputs, dynamic=case.dynamic)
    except Exception as error:
        raise ExportFailed(f"torch.onnx.export refused it: {_line(error)}") from error
    start = time.perf_counter()
    program = runtime.compile(data)
    seconds = time.perf_counter() - start
    for spec, axes in zip(program.inputs, case.dynamic, strict=False):
        for axis, size in axes.items():
            if isinstance(spec.shape[axis], int):
                raise ExportFailed(f"torch.onnx.export refused to leave {_size_name(size)} open: it wrote steps out")
    return program, seconds


class ExportFailed(Exception):
    """The model has no ONNX form: torch's exporter refuses it."""


def _compare(case: Case, program: runtime.Program, inputs: Tensors) -> tuple[float, float]:
    """Errors of the program and of torch in FP32 for these inputs."""
    exact = _truth(case, inputs)
    with torch.no_grad():
        own = _arrays(case.module(*(x.clone() for x in inputs)))
    found = _arrays(program(*[x.clone() for x in inputs[: len(program.inputs)]]))
    if len(found) != len(exact):
        raise AssertionError(f"{len(found)} outputs; torch has {len(exact)}")
    return relative_error(found, exact), relative_error(own, exact)


def relative_error(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    """The worst output's largest difference in parts of its largest exact magnitude; where one is not finite the
    other must be the same. Integers must be equal (else infinity)."""
    worst = 0.0
    for x, y in zip(found, exact, strict=True):
        if x.shape != y.shape:
            raise AssertionError(f"an output has shape {x.shape}; torch has {y.shape}")
        if y.dtype.kind not in "fc":
            worst = max(worst, 0.0 if np.array_equal(x, y) else float("inf"))
            continue
        finite = np.isfinite(y)
        if not np.array_equal(np.where(finite, 0, y), np.where(np.isfinite(x), 0, x), equal_nan=True):
            return float("inf")
        if finite.any():
            scale = float(np.abs(y[finite]).max()) or 1.0
            worst = max(worst, float(np.abs(x[finite] - y[finite]).max()) / scale)
    return worst


def _truth(case: Case, inputs: Tensors) -> list[np.ndarray]:
    module = copy.deepcopy(case.module).double()
    _choose_experts(module, "eager")  # torch's grouped products take no doubles
    doubled = [x.double() if x.is_floating_point() else x.clone() for x in inputs]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), InDouble():
            return _arrays(module(*doubled))
    finally:
        torch.set_default_dtype(torch.float32)


def _choose_experts(module: torch.nn.Module, implementation: str) -> None:
    """Set how transformers' mixtures of experts multiply, where there are any."""
    for part in module.modules():
        if getattr(getattr(part, "config", None), "_experts_implementation", None):
            part.config._experts_implementation = implementation


def _arrays(results: Any) -> list[np.ndarray]:
    results = results if isinstance(results, (tuple, list)) else (results,)
    return [np.asarray(result) for result in results]


def _size_name(size: Any) -> str:
    return size if isinstance(size, str) else size.__name__


def _doubled(x: Any) -> Any:
    return torch.float64 if x is torch.float32 else x


def _line(error: Exception) -> str:
    """The kind and text of what first went wrong in one line; where it is none of ours, also where it was raised."""
    while not isinstance(error, (SansuanError, ExportFailed)) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(str(error).split())[:400]
    place = ""
    if not isinstance(error, (SansuanError, ExportFailed)) and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({'/'.join(last.filename.split('/')[-2:])}:{last.lineno})"
    return f"{type(error).__name__}: {text}{place}"
