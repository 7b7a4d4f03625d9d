"""Node by node: what every candidate gives against a reference, errors of a node's own told from inherited ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np

from compiler.errors import SansuanError
from compiler.passes.expose import Isolated, isolate
from compiler.policy import Policy
from compiler.types import TensorType
from runtime.options import Options
from runtime.parity.candidates import Native, make
from runtime.parity.fused import fused_only
from runtime.parity.judge import judge
from runtime.parity.metrics import norm
from runtime.parity.report import FusedOnly, Judged, Report, Row
from runtime.parity.source import Source, open_source
from runtime.parity.tolerance import Limit, Roundoff, depths
from runtime.parity.truth import OwnTruth, in_fp64, in_own_types, total_limits

SEGMENT = 256 << 20  # bytes of operands and results that are isolated together

Arrays = Mapping[str, Any]


def compare(
    model: Any,
    inputs: Any,
    candidates: Sequence[str | Policy] | str | Policy = ("native",),
    reference: str = "fp64",
    tolerance: float | None = None,
    *,
    threads: int | None = None,
    cache: bool = True,
) -> Report:
    """Compare what every node of a model gives on several backends.

    model: as in runtime.compile. inputs: of an ONNX model a mapping by name or a sequence; of a torch model what
    `example_inputs` of runtime.compile may be.
    candidates, reference: "native" (this package, the model's types), "reference" (NumPy, the model's types), "fp64",
    "fp32", "bf16", "int8" (native, that precision) or a runtime.Policy, "unit:<family>" (native, held to the matrix
    units of a family, see runtime.target().unit_families), "onnxruntime", "openvino" (ONNX models), "torch" (eager,
    torch models). As a reference "fp64" is NumPy in double precision.
    tolerance: the greatest relative L2 of an own error; None: what rounding accounts for (see tolerance.py).

    A node's *own* error is that of its results when its operands are the reference's values; its *total* error that of
    the whole model run at once. Raises what runtime.compile raises, and SansuanError for a candidate that is unknown,
    not installed or does not run this kind of model.
    """
    return Comparison(model, inputs, candidates, reference, tolerance, threads=threads, cache=cache).report()


class Comparison:
    """A comparison whose programs stay compiled, for other inputs of the same shapes. Arguments as `compare`'s."""

    def __init__(
        self,
        model: Any,
        inputs: Any,
        candidates: Sequence[str | Policy] | str | Policy = ("native",),
        reference: str = "fp64",
        tolerance: float | None = None,
        *,
        threads: int | None = None,
        cache: bool = True,
    ) -> None:
        listed = [candidates] if isinstance(candidates, str | Policy) else list(candidates)
        if not listed:
            raise SansuanError("compare: no candidates; expected at least one, such as 'native'")
        self._tolerance = tolerance
        self._options = Options.resolve(threads, cache)
        self._source = open_source(model, inputs)
        self._depths = depths(self._source.exposed)
        self._candidates = [make(spec, self._source, self._options) for spec in listed]
        self._reference = None if reference == "fp64" else make(reference, self._source, self._options)
        self._segments: list[Isolated] = []

    def report(self, inputs: Any = None) -> Report:
        """What is found for `inputs`, of the first ones' shapes; None: for the first ones themselves."""
        if inputs is not None:
            self._move_to(inputs)
        return _Run(self).report()

    def _move_to(self, inputs: Any) -> None:
        found = open_source(self._source.model, inputs)
        shapes = [[np.shape(array) for array in source.arrays] for source in (found, self._source)]
        if shapes[0] != shapes[1]:
            raise SansuanError(f"inputs of shapes {shapes[0]}; expected {shapes[1]}: make another Comparison")
        self._source = found
        self._candidates = [candidate.at(found) for candidate in self._candidates]
        self._reference = self._reference.at(found) if self._reference else None

    def segments(self, observed: Arrays) -> list[Isolated]:
        """Isolated graphs of all nodes, each of bounded size; made anew where contents that are constants differ."""
        held = [(name, array) for segment in self._segments for name, array in segment.baked.items()]
        if not self._segments or not all(np.array_equal(observed[name], array) for name, array in held):
            groups = _groups(self._source)
            self._segments = [isolate(self._source.exposed, observed, group) for group in groups]
        return self._segments


@dataclass(frozen=True)
class _Found:
    """Errors by value name and candidate."""

    own: dict[str, dict[str, Judged]]
    total: dict[str, dict[str, Judged]]
    fp64: dict[str, dict[str, Judged]]


class _Run:
    """One set of inputs."""

    def __init__(self, comparison: Comparison) -> None:
        self.source, self.depths = comparison._source, comparison._depths
        self.candidates, self.reference = comparison._candidates, comparison._reference
        self.tolerance, self.comparison = comparison._tolerance, comparison
        self.node_of = {value: node for node, values in self.source.values.items() for value in values}
        self.found = _Found({}, {}, {})
        self.limits: dict[Roundoff, dict[str, Limit]] = {}
        self.totals: dict[Roundoff, dict[str, Limit]] = {}
        self.left_out: dict[str, str] = {}

    def report(self) -> Report:
        source = self.source
        truth = in_fp64(source.exposed, source.arrays)
        self.expected = truth if self.reference is None else {**truth, **self.reference.total()}
        observed = self._observed()
        for segment in self.comparison.segments(observed):
            self._own(segment, observed)
        for roundoff, own in self.limits.items():
            self.totals[roundoff] = total_limits(source.exposed, source.arrays, truth, own)
        outputs: dict[str, dict[str, Judged]] = {}
        fused: list[FusedOnly] = []
        for candidate in self.candidates:
            for name, result in candidate.total().items():
                self.found.total.setdefault(name, {})[candidate.name] = self._total(candidate, name, result)
            outputs[candidate.name] = self._outputs(candidate)
            if isinstance(candidate, Native):
                fused += fused_only(candidate, source, outputs[candidate.name], self.found.total, self._total)
        name = "fp64" if self.reference is None else self.reference.name
        names = tuple(candidate.name for candidate in self.candidates)
        return Report(name, names, tuple(self._rows()), outputs, tuple(fused), source, observed)

    @cached_property
    def own_types(self) -> dict[str, Any]:
        """The whole model by NumPy in its own types: what a total may also be where these overflow."""
        graph = self.source.exposed
        results = in_own_types(graph, self.source.arrays)
        return {value.name: result for value, result in zip(graph.outputs, results, strict=True)}

    def _observed(self) -> dict[str, Any]:
        """The reference's values in the model's types: what isolated nodes are fed."""
        observed: dict[str, Any] = dict(zip(self.source.input_names, self.source.arrays, strict=True))
        with np.errstate(all="ignore"):
            for value in self.source.exposed.outputs:
                result, type = self.expected[value.name], value.type
                observed[value.name] = np.asarray(result, type.dtype.numpy) if isinstance(type, TensorType) else result
        return observed

    def _own(self, segment: Isolated, observed: Arrays) -> None:
        self.left_out |= segment.left_out
        fed = [np.asarray(observed[name], order="C") for name in segment.fed]
        truth = OwnTruth(segment, fed, self.depths)
        compared = [*self.candidates, *([self.reference] if self.reference else [])]
        results = {candidate.name: candidate.own(segment, fed) for candidate in compared}
        for roundoff in {candidate.roundoff for candidate in compared}:
            found = self._asked_for(truth.limits(roundoff, self.node_of), truth.results)
            self.limits.setdefault(roundoff, {}).update(found)
        base = truth.results if self.reference is None else {**truth.results, **results[self.reference.name]}
        for candidate in compared:
            both = self._summed(self.limits, candidate.roundoff)
            for name, result in results[candidate.name].items():
                other = partial(truth.in_own_type, name)
                if candidate is not self.reference:
                    judged = judge(result, base[name], both[name], self._alternative(result, other))
                    self.found.own.setdefault(name, {})[candidate.name] = judged
                if self.reference is not None:
                    judged = judge(result, truth.results[name], self.limits[candidate.roundoff][name], other)
                    self.found.fp64.setdefault(name, {})[candidate.name] = judged

    def _asked_for(self, limits: dict[str, Limit], results: Arrays) -> dict[str, Limit]:
        """The bounds, those of floats as the user wants them where that is said."""
        if self.tolerance is None:
            return limits
        return {
            name: Limit(self.tolerance * norm(results[name])) if np.asarray(results[name]).dtype.kind == "f" else limit
            for name, limit in limits.items()
        }

    def _summed(self, limits: Mapping[Roundoff, Mapping[str, Limit]], roundoff: Roundoff) -> Mapping[str, Limit]:
        """Bounds for a candidate against the reference, which may err as well."""
        own = limits[roundoff]
        if self.reference is None:
            return own
        other = limits[self.reference.roundoff]
        return {
            name: Limit(a.norm + other[name].norm, a.different + other[name].different, max(a.step, other[name].step))
            for name, a in own.items()
        }

    def _total(self, candidate: Any, name: str, result: Any) -> Judged:
        """What a whole run gave for an exposed value."""
        limit = self._summed(self.totals, candidate.roundoff)[name]
        other = self._alternative(result, lambda: self.own_types[name])
        return judge(result, self.expected[name], limit, other)

    def _alternative(self, result: Any, other: Callable[[], Any]) -> Callable[[], Any] | None:
        """What a result may be besides: nothing where another backend, or the user's tolerance, is the measure."""
        asked_for = self.tolerance is not None and np.asarray(result).dtype.kind == "f"
        return None if self.reference is not None or asked_for else other

    def _outputs(self, candidate: Any) -> dict[str, Judged]:
        final = candidate.final() or {}
        return {
            name: self._total(candidate, value, final[name])
            for name, value in self.source.outputs
            if value and isinstance(final.get(name), np.ndarray)
        }

    def _rows(self) -> Iterator[Row]:
        for node in self.source.nodes:
            values = self.source.values.get(node.name, ())
            note = self.source.notes.get(node.name, "") or self.left_out.get(node.name, "")
            tables = (self.found.own, self.found.total, self.found.fp64)
            own, total, fp64 = (_worst(values, table) for table in tables)
            yield Row(node.name, node.op, own, total, fp64, "" if own else note or "nothing to compute")


def _worst(values: Sequence[str], table: Mapping[str, Mapping[str, Judged]]) -> dict[str, Judged]:
    """By candidate, the judgement of the result that is farthest beyond its bound."""
    worst: dict[str, Judged] = {}
    for value in values:
        for name, judged in table.get(value, {}).items():
            known = worst.get(name)
            if known is None or (not judged.agrees, judged.excess) > (not known.agrees, known.excess):
                worst[name] = judged
    return worst


def _groups(source: Source) -> list[set[str]]:
    """Imported nodes in order, cut where their results come to more than SEGMENT bytes."""
    sizes = {value.name: _bytes(value) for value in source.exposed.outputs}
    groups: list[set[str]] = [set()]
    filled = 0
    for node in source.nodes:
        size = sum(sizes[value] for value in source.values.get(node.name, ()))
        if groups[-1] and filled + size > SEGMENT:
            groups.append(set())
            filled = 0
        groups[-1].add(node.name)
        filled += size
    groups[-1].add("")  # what the front end added around the nodes
    return groups


def _bytes(value: Any) -> int:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return prod(size if isinstance(size, int) else 1 for size in shape or ()) * value.type.dtype.bytes if shape else 0
