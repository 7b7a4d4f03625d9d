"""What may be compared, by name, and the candidates that are this package's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

import runtime.api
from backends.native import target as targets
from backends.native.executable import Executable
from backends.native.target import Target
from compiler.errors import SansuanError
from compiler.ir import Graph
from compiler.passes.expose import Isolated
from compiler.passes.precision import NAMES as RETYPING
from compiler.passes.precision import set_precision
from compiler.pipeline import lower_graph
from compiler.policy import Policy, resolve
from runtime.options import Options
from runtime.parity.source import Source
from runtime.parity.tolerance import OWN_TYPES, ROUNDOFFS, Roundoff
from runtime.parity.truth import in_own_types

Arrays = Mapping[str, Any]


class Candidate(Protocol):
    """A way to compute a model. `roundoff`: of its products' operands, where that is not their types'."""

    name: str
    roundoff: Roundoff

    def total(self) -> Arrays:
        """What the whole model gives for the source's inputs: exposed values by name, those there are."""

    def own(self, isolated: Isolated, fed: Sequence[np.ndarray]) -> Arrays:
        """What imported nodes give, each on the operands it is fed: by name, those there are."""

    def final(self) -> Arrays | None:
        """The model's outputs by name as it runs in production, nothing exposed; None where `total` is that."""


class Native:
    """Kernels of this package: in the model's types, in a precision, or by the units of a family."""

    def __init__(self, name: str, source: Source, options: Options, precision: Any = None, unit: str = "") -> None:
        self.name, self._source, self._options, self._precision = name, source, options, precision
        self._machine = _machine_of(unit) if unit else targets.host()
        self.roundoff = _roundoff(precision)
        self._compiled: dict[Any, Any] = {}

    def total(self) -> Arrays:
        return self.partly([value.name for value in self._source.exposed.outputs])

    def own(self, isolated: Isolated, fed: Sequence[np.ndarray]) -> Arrays:
        results = self._run(isolated.graph, fed, isolated)
        return dict(zip(isolated.results, results, strict=True))

    def partly(self, exposed: Collection[str]) -> Arrays:
        """The values named, the others free to be fused away."""
        graph = self._source.exposed
        kept = tuple(value for value in graph.outputs if value.name in exposed)
        results = self._run(replace(graph, outputs=kept), self._source.arrays, tuple(value.name for value in kept))
        return {value.name: result for value, result in zip(kept, results, strict=True)}

    def final(self) -> Arrays:
        if "program" not in self._compiled:
            program = runtime.api.build(self._source.loaded, self._precision, "native", self._machine, self._options)
            self._compiled["program"] = program
        # Not `run`, which stores what a torch module changes in its buffers.
        results = self._compiled["program"]._arrays(self._source.arrays)
        return {name: result for (name, _), result in zip(self._source.outputs, results, strict=True)}

    def calls(self) -> list[tuple[str, ...]]:
        """For each kernel call when nothing but the outputs is exposed, the imported nodes it carries out."""
        graph = self._source.exposed
        finals = {value for _, value in self._source.outputs}
        graph = replace(graph, outputs=tuple(value for value in graph.outputs if value.name in finals))
        return [call.where for call in lower_graph(_in_precision(graph, self._precision)).calls]

    def at(self, source: Source) -> Native:
        """The same candidate on other inputs of the same shapes: what is compiled stays."""
        other = Native.__new__(Native)
        other.__dict__.update(self.__dict__, _source=source)
        return other

    def _run(self, graph: Graph, arrays: Sequence[Any], key: Any) -> list[Any]:
        if key not in self._compiled:
            lowered = lower_graph(_in_precision(graph, self._precision))
            self._compiled[key] = Executable(lowered, self._machine, self._options)
        return self._compiled[key].run([np.asarray(array, order="C") for array in arrays])


class Reference:
    """NumPy in the model's own types."""

    name, roundoff = "reference", OWN_TYPES

    def __init__(self, source: Source) -> None:
        self._source = source

    def total(self) -> Arrays:
        graph = self._source.exposed
        results = in_own_types(graph, self._source.arrays)
        return {value.name: result for value, result in zip(graph.outputs, results, strict=True)}

    def own(self, isolated: Isolated, fed: Sequence[np.ndarray]) -> Arrays:
        return dict(zip(isolated.results, in_own_types(isolated.graph, fed), strict=True))

    def final(self) -> None:
        return None

    def at(self, source: Source) -> Reference:
        """The same candidate on other inputs."""
        return Reference(source)


def make(spec: str | Policy, source: Source, options: Options) -> Any:
    """The candidate that `spec` names or describes. Raises SansuanError, listing what there is."""
    if isinstance(spec, Policy):
        return Native(f"policy {spec.precision}", source, options, precision=spec)
    if spec == "native":
        return Native(spec, source, options)
    if spec == "reference":
        return Reference(source)
    if spec in ROUNDOFFS:
        return Native(spec, source, options, precision=spec)
    if spec.startswith("unit:"):
        return Native(spec, source, options, unit=spec.removeprefix("unit:"))
    if spec in ("onnxruntime", "openvino") and importlib.util.find_spec(spec) and source.proto is not None:
        from runtime.parity import onnx_peers

        return (onnx_peers.OnnxRuntime if spec == "onnxruntime" else onnx_peers.OpenVino)(source, options.threads)
    if spec == "torch" and source.proto is None:
        from runtime.parity.torch_eager import TorchEager

        return TorchEager(source)
    raise SansuanError(
        f"candidate {spec!r}: {_why_not(spec, source)}; this model can be compared on {_there_is(source)}"
    )


def _why_not(spec: str, source: Source) -> str:
    if spec in ("onnxruntime", "openvino"):
        missing = importlib.util.find_spec(spec) is None
        return f"the package {spec} is not installed" if missing else "it runs ONNX models, and this is none"
    return "it runs torch models, and this is none" if spec == "torch" else "no such candidate"


def _there_is(source: Source) -> str:
    peers = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
    others = peers if source.proto is not None else ["torch"]
    return ", ".join(["native", "reference", *ROUNDOFFS, *(f"unit:{f}" for f in _families()), *others])


def _families() -> list[str]:
    return [family for family, (_, missing) in targets.host().unit_families.items() if not missing]


def _machine_of(family: str) -> Target:
    if family not in _families():
        raise SansuanError(f"candidate 'unit:{family}': this machine's units are of {', '.join(_families())}")
    return targets.named("generic" if family == "generic" else f"host-{family}")


def _in_precision(graph: Graph, precision: Any) -> Graph:
    if precision is None:
        return graph
    return set_precision(graph, precision) if precision in RETYPING else graph.with_policy(resolve(precision))


def _roundoff(precision: Any) -> Roundoff:
    """Of the coarsest precision a program may use."""
    if not isinstance(precision, Policy):
        return ROUNDOFFS.get(precision, OWN_TYPES)
    chosen = {precision.precision, precision.otherwise, *(rule.precision for rule in precision.rules)} - {"fp32"}
    found = [ROUNDOFFS[name] for name in chosen]
    return Roundoff(max((r.relative for r in found), default=0.0), max((r.absolute for r in found), default=0.0))
