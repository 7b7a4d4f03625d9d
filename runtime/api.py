"""runtime.compile: from a model to a Program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.native import target as targets
from backends.native.executable import Executable
from backends.native.target import Target
from backends.reference.interpreter import ReferenceExecutable
from compiler.errors import SansuanError, TargetError
from compiler.ir import Graph
from compiler.passes.precision import NAMES as RETYPING
from compiler.passes.precision import set_precision
from compiler.passes.specialize import specialize
from compiler.pipeline import lower_graph, optimize
from compiler.policy import PRECISIONS as NARROWING
from compiler.policy import Policy, resolve
from runtime.by_value import ByValue
from runtime.importing import Imported, load
from runtime.ledger import Notes
from runtime.options import Options
from runtime.product import matmul
from runtime.program import Program, Runner

if TYPE_CHECKING:
    from compiler.frontends.torch import ImportedTorch

__all__ = ["build", "compile", "matmul", "target"]

PRECISIONS = (*RETYPING, *(name for name in NARROWING if name not in RETYPING))
_FIXED_SIZE = "torch sizes are fixed unless named in dynamic_shapes: compile with dynamic_shapes={...} for this axis"


def compile(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    precision: str | Policy | None = None,
    backend: str = "native",
    dynamic_shapes: Any = None,
    threads: int | None = None,
    target: Target | str | None = None,
    cache: bool = True,
    tune: bool = False,
) -> Program:
    """Compile a model.

    model: an ONNX model (path, bytes or ModelProto), a torch.nn.Module (then `example_inputs`: a tuple of positional
    inputs, a dict of named ones, or a pair of both) or a torch.export.ExportedProgram.
    precision: None keeps the model's own types; "fp64" or "fp32" does all float arithmetic in that type; "bf16x3"
    permits products of float32 by units that multiply bfloat16, with an error like float32's; "bf16" or "int8" only
    products of weights and activations (sums in float32, or exact in int32; weights per output channel, activations
    quantized row by row as they run); "int8_weights" or "int4_weights" only store weights as codes, and multiply as
    written; a runtime.Policy chooses for each product. The ledger says which product runs in what, and why not in what
    was asked for. Inputs and outputs keep the model's types, except that "fp64" answers float64.
    backend: "native", or "reference" to run the graph in NumPy.
    dynamic_shapes: as in torch.export; torch axes not named there are fixed. ONNX's named dimensions vary freely.
    threads: the most to use; None: OMP_NUM_THREADS if set, else what affinity and the cgroup quota allow.
    target: a runtime.Target or its name; None: this machine. cache: keep compiled kernels on disk.
    tune: measure a few ways to do each product when it first meets sizes of its class, some 0.1 s each, and remember
    the fastest in the cache; programs compiled later use it, tuning or not. Results do not depend on it.

    Raises ModelError (malformed model), UnsupportedOp (all at once), ShapeError, DtypeError, TargetError (code this
    machine cannot run), SansuanError (an unknown precision or backend).
    """
    _check_words(precision, backend)
    options = Options.resolve(threads, cache, tune)
    machine = _machine(target)
    return build(load(model, example_inputs, dynamic_shapes), precision, backend, machine, options)


def build(
    imported: Imported, precision: str | Policy | None, backend: str, machine: Target, options: Options
) -> Program:
    """The program of an imported model; the arguments are those of `compile`, resolved."""
    if imported.structure is not None:
        return _of_torch(imported, imported.structure, precision, backend, machine, options)
    graph = _in_precision(imported.graph, precision)
    executable, notes = _executable(graph, backend, machine, options)
    if isinstance(executable, Executable) and imported.deciding:

        def for_contents(contents: Mapping[str, np.ndarray]) -> Executable:
            return Executable(lower_graph(_in_precision(imported.knowing(contents), precision)), machine, options)

        executable = ByValue(executable, imported.deciding, for_contents)
    return Program(graph, executable, notes, specialize=_specializer(graph, backend, machine, options))


def target(name: str | Target | None = None) -> Target:
    """What this machine offers, or the target called `name`. Raises TargetError for a name that is none."""
    return targets.host() if name is None else targets.named(name)


def _check_words(precision: str | Policy | None, backend: str) -> None:
    if precision is not None and not isinstance(precision, Policy) and precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise SansuanError(f"precision {precision!r} is unknown; expected one of {known}, a runtime.Policy or None")
    if backend not in ("native", "reference"):
        raise SansuanError(f"backend {backend!r} is unknown; expected 'native' or 'reference'")


def _machine(target: Target | str | None) -> Target:
    machine = targets.host() if target is None else targets.named(target)
    if not machine.runs_here:
        raise TargetError(f"target {machine.name!r} cannot run here: {machine.missing_here}; choose another target")
    return machine


def _of_torch(
    imported: Imported,
    structure: ImportedTorch,
    precision: str | Policy | None,
    backend: str,
    machine: Target,
    options: Options,
) -> Program:
    graph = _in_precision(imported.graph, precision)
    executable, notes = _executable(graph, backend, machine, options)

    def present() -> Graph:
        return _in_precision(structure.graph.with_constants(structure.weights()), precision)

    return Program(
        graph,
        executable,
        notes,
        structure=structure,
        specialize=_specializer(graph, backend, machine, options, present),
        fetch_weights=lambda: lower_graph(present()),
        hint=_FIXED_SIZE,
        ranges=structure.ranges,
    )


def _in_precision(graph: Graph, precision: str | Policy | None) -> Graph:
    if precision is None:
        return graph
    return set_precision(graph, precision) if precision in RETYPING else graph.with_policy(resolve(precision))


def _executable(graph: Graph, backend: str, machine: Target, options: Options) -> tuple[Runner, Notes]:
    """What runs the graph, and what the ledger says beside that."""
    if backend == "reference":
        idle = {node.name: "run by the NumPy reference" for node in graph.imported}
        return ReferenceExecutable(optimize(graph) if graph.policy else graph), Notes(idle)
    lowered = lower_graph(graph)
    return Executable(lowered, machine, options), Notes(lowered.notes, lowered.remarks)


def _specializer(
    graph: Graph, backend: str, machine: Target, options: Options, present: Callable[[], Graph] | None = None
) -> Any:
    """Makes executables for exact input shapes, where the general one's guards do not hold. present: answers with the
    graph and its weights of that moment, where they can change."""
    if not graph.guards:
        return None
    now = present or (lambda: graph)
    return lambda shapes: _executable(specialize(now(), shapes), backend, machine, options)[0]
