"""Which inputs of a model decide shapes by their contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from compiler.frontends.onnx_model import OnnxModel, domain_name, read_model
from compiler.frontends.onnx_order import initializer_names, subgraphs
from compiler.frontends.onnx_schemas import find_schema, function_opsets
from compiler.op import ONNX_ROWS, Op, lookup

# Operands that give a result its type or shape, not its contents: operator -> numbers.
_LOOKS_ONLY = {"Shape": (0,), "Size": (0,), "CastLike": (1,)}
# Operands that decide shapes where the operator's own op does not say so.
_DECIDING = {"CenterCropPad": (1,), "Upsample": (1,), "If": (0,)}


def deciding_inputs(model: Any) -> tuple[str, ...]:
    """Names of the main graph's inputs that reach, directly or through integer chains, an operand whose contents decide
    a shape, an axis or a branch (Reshape's shape, Slice's starts, If's condition...), inside functions and branches
    too. Raises ModelError as `onnx.load` does."""
    lookup("map")  # fills the registry
    found = read_model(model)
    chains = _Chains(found)
    graph = found.proto.graph
    chains.follow(graph.node, "", found.opsets, ())
    decided = chains.reached()
    constants = set(initializer_names(graph))
    return tuple(v.name for v in graph.input if v.name in decided and v.name not in constants)


class _Chains:
    """What each value's contents are computed from, and the values that decide. A name inside a function carries the
    prefix of its call."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._sources: dict[str, list[str]] = {}
        self._roots: list[str] = []
        self._count = 0

    def reached(self) -> set[str]:
        """Every value that takes part in a decision."""
        seen: set[str] = set()
        pending = list(self._roots)
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending.extend(self._sources.get(name, ()))
        return seen

    def follow(
        self, nodes: Iterable[Any], prefix: str, opsets: Mapping[str, int], calls: tuple[tuple[str, str], ...]
    ) -> None:
        """Take in nodes of a graph or function body."""
        for node in nodes:
            self._roots += (prefix + node.input[i] for i in _decide(node) if i < len(node.input) and node.input[i])
            if _tracks(node):
                skipped = _LOOKS_ONLY.get(node.op_type, ())
                names = [prefix + name for i, name in enumerate(node.input) if name and i not in skipped]
                self._add(prefix, node.output, [names] * len(node.output))
            for body in subgraphs(node):
                self.follow(body.node, prefix, opsets, calls)
                if node.op_type == "If":
                    self._add(prefix, node.output, [[prefix + value.name] for value in body.output])
            key = (domain_name(node.domain), node.op_type)
            function = None if key in calls else self._function(node, opsets)
            if function is not None:
                self._enter(node, function, prefix, opsets, (*calls, key))

    def _enter(self, node: Any, function: Any, prefix: str, opsets: Mapping[str, int], calls: Any) -> None:
        self._count += 1
        inner = f"{self._count}/"
        for formal, actual in zip(function.input, node.input, strict=False):
            self._add(inner, [formal], [[prefix + actual]])
        self._add(prefix, node.output, [[inner + name] for name in function.output])
        self.follow(function.node, inner, function_opsets(function, opsets), calls)

    def _function(self, node: Any, opsets: Mapping[str, int]) -> Any:
        """The body a node stands for: a model's own function, or the schema's where no op serves the operator."""
        domain = domain_name(node.domain)
        own = self._model.functions.get((domain, node.op_type, node.overload))
        if own is not None or (domain, node.op_type) in ONNX_ROWS:
            return own
        version = opsets.get(domain)
        schema = find_schema(node.op_type, domain, version) if version is not None else None
        return schema.function_body if schema is not None and schema.has_function else None

    def _add(self, prefix: str, outputs: Iterable[str], sources: Iterable[list[str]]) -> None:
        for output, names in zip(outputs, sources, strict=False):
            if output:
                self._sources.setdefault(prefix + output, []).extend(names)


def _decide(node: Any) -> Iterator[int]:
    yield from _DECIDING.get(node.op_type, ())
    op = _op(node)
    if op is not None and not subgraphs(node):
        yield from op.value_operands


def _tracks(node: Any) -> bool:
    op = _op(node)
    return op is not None and op.tracks_values and not op.is_host  # what such a step finds in an input is data


def _op(node: Any) -> Op | None:
    entry = ONNX_ROWS.get((domain_name(node.domain), node.op_type))
    return entry[0] if entry else None
