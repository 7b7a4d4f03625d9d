"""The backend "sansuan" of torch.compile: graphs that TorchDynamo captures become programs.

    with torch.no_grad():
        fast = torch.compile(model, backend="sansuan")
        y = fast(x)

Parameters and buffers are packed as weights, and packed again when their contents have changed. Sizes that Dynamo makes
dynamic vary freely. `options` of torch.compile: precision, threads, target, cache, tune as in runtime.compile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._guards import tracing

import runtime
from compiler.errors import ModelError, UnsupportedOp
from runtime.program import Program

_OPTIONS = ("precision", "threads", "target", "cache", "tune")


def sansuan(
    graph: torch.fx.GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """What runs a graph captured by TorchDynamo. Raises UnsupportedOp where gradients are wanted or a call has no row,
    ModelError for unknown options."""
    unknown = sorted(set(options or ()) - set(_OPTIONS))
    if unknown:
        raise ModelError(f"torch.compile: options {', '.join(unknown)} are unknown; expected {', '.join(_OPTIONS)}")
    tensors = [value for value in example_inputs if isinstance(value, torch.Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise UnsupportedOp(
            "torch.compile with backend 'sansuan' computes no gradients, but they are enabled and an input or "
            "parameter requires them; call the model under torch.no_grad() or torch.inference_mode()"
        )
    captured = _Captured(graph, example_inputs, dict(options or {}))
    with tracing(None):  # torch.export must not take up the tracing that is under way
        captured.program_for(example_inputs)
    return captured


class _Captured:
    """A captured graph and its programs: one, and more where a size turned out to be fixed in it."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Sequence[Any], options: Mapping[str, Any]) -> None:
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self._examples = [node.meta.get("example_value") for node in nodes]
        self._held = {i: inputs[i] for i, node in enumerate(nodes) if _is_held(node, inputs[i])}
        self._graph, self._options = graph, options
        self._tensors = [i for i, x in enumerate(inputs) if isinstance(x, torch.Tensor) and i not in self._held]
        self._sizes = _sources(self._examples, self._tensors)
        self._numbers = [i for i, x in enumerate(self._examples) if not _is_tensor(x) and i not in self._sizes]
        self._programs: list[tuple[tuple[int, ...] | None, _Module, Program]] = []
        self._watched: list[torch.Tensor] = []
        self._versions: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """The graph's results for all of its inputs, parameters included, as TorchDynamo calls it."""
        with self._lock:
            program = self.program_for(args)
        return program(*self._given(args))

    def program_for(self, args: Sequence[Any]) -> Program:
        """The program that serves these inputs, its weights those among them."""
        self._hold(args)
        numbers = tuple(_plain(args[i]) for i in self._numbers)
        for fixed, _, program in self._programs:
            if fixed in (None, numbers) and _fits(program, self._given(args)):
                return program
        for fixed in (None, numbers):
            module = _Module(self._graph, self._held, self._tensors, self._sizes, self._numbers, fixed)
            try:
                program = self._compile(module, args)
            except ModelError:
                if fixed is not None or not numbers:
                    raise
                continue  # a number from outside decides what torch traces: a program for each
            self._programs.append((fixed, module, program))
            self._watch()
            self._versions = self._state_of_weights()
            return program
        raise AssertionError("either of the two ways has returned or raised")

    def _compile(self, module: _Module, args: Sequence[Any]) -> Program:
        shapes = []
        for i in self._tensors:
            sizes = enumerate(self._examples[i].shape)
            shapes.append({axis: torch.export.Dim.AUTO for axis, size in sizes if isinstance(size, torch.SymInt)})
        given = tuple(x.detach() for x in self._given(args))
        dynamic = tuple(shapes) + ({},) * (len(given) - len(shapes))
        dynamic_shapes = {"tensors": dynamic} if any(shapes) else None
        return runtime.compile(module.eval(), given, dynamic_shapes=dynamic_shapes, **self._options)

    def _given(self, args: Sequence[Any]) -> list[torch.Tensor]:
        """The inputs of every program: tensors that are no weights, then numbers as 0-d tensors."""
        return [*(args[i] for i in self._tensors), *(torch.tensor(_plain(args[i])) for i in self._numbers)]

    def _hold(self, args: Sequence[Any]) -> None:
        """Take the parameters and buffers of a call; where their contents are others, pack them again."""
        for i, held in self._held.items():
            if args[i] is not held:
                self._held[i] = args[i]
                for _, module, _ in self._programs:
                    module.hold(i, args[i])
                self._watch()
        if (versions := self._state_of_weights()) != self._versions:
            self._versions = versions
            for _, _, program in self._programs:
                program.refresh()

    def _watch(self) -> None:
        """Note the weights whose contents are packed: not those the graph itself changes, which each run reads."""
        changing = {i for _, module, program in self._programs for i in module.changed_by(program)}
        self._watched = [tensor for i, tensor in self._held.items() if i not in changing]

    def _state_of_weights(self) -> list[tuple[int, int]]:
        """What differs when the contents of a weight do (torch counts no changes of inference tensors)."""
        return [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in self._watched]


class _Module(nn.Module):
    """A captured graph as a function of its tensors alone, its weights being buffers."""

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        held: Mapping[int, torch.Tensor],
        tensors: Sequence[int],
        sizes: Mapping[int, tuple[int, int]],
        numbers: Sequence[int],
        fixed: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self._captured, self._tensors, self._sizes, self._numbers, self._fixed = graph, tensors, sizes, numbers, fixed
        self._inputs = len(held) + len(tensors) + len(sizes) + len(numbers)
        self._places = tuple(held)
        for i, tensor in held.items():
            self.register_buffer(f"held_{i}", tensor.detach())

    def hold(self, i: int, tensor: torch.Tensor) -> None:
        """Take another tensor for weight `i`."""
        setattr(self, f"held_{i}", tensor.detach())

    def changed_by(self, program: Program) -> list[int]:
        """The buffers the graph itself changes: a program reads those anew in each run."""
        inputs = {spec.name for spec in program.inputs}
        return [i for i in self._places if f"b_held_{i}" in inputs]  # torch.export's name of a buffer it passes in

    def forward(self, *tensors: torch.Tensor) -> Any:
        args: dict[int, Any] = {i: getattr(self, f"held_{i}") for i in self._places}
        args.update(zip(self._tensors, tensors, strict=False))
        for i, (place, axis) in self._sizes.items():
            args[i] = args[place].shape[axis]
        for i, number, known in zip(
            self._numbers, tensors[len(self._tensors) :], self._fixed or (None,) * len(self._numbers), strict=True
        ):
            args[i] = number.item() if known is None else known
        return self._captured(*(args[i] for i in range(self._inputs)))


def _is_held(node: torch.fx.Node, value: Any) -> bool:
    """Whether an input is a parameter or buffer, the same from call to call."""
    static = node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type") is not None
    return isinstance(value, nn.Parameter) or (isinstance(value, torch.Tensor) and static)


def _plain(number: Any) -> int:
    """An integer; of one that is symbolic while TorchDynamo compiles, its example, which puts no guard on it."""
    return number.node.hint if isinstance(number, torch.SymInt) else int(number)


def _is_tensor(example: Any) -> bool:
    return isinstance(example, torch.Tensor)


def _sources(examples: Sequence[Any], tensors: Sequence[int]) -> dict[int, tuple[int, int]]:
    """For each integer input that is a tensor's size: the tensor and its axis."""
    known: dict[str, tuple[int, int]] = {}
    for i in tensors:
        for axis, size in enumerate(examples[i].shape):
            if isinstance(size, torch.SymInt):
                known.setdefault(str(size), (i, axis))
    return {i: known[str(x)] for i, x in enumerate(examples) if not _is_tensor(x) and str(x) in known}


def _fits(program: Program, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether tensors have the sizes a program fixes."""
    return all(
        isinstance(size, str) or size == found
        for spec, x in zip(program.inputs, tensors, strict=False)
        for size, found in zip(spec.shape or (), x.shape, strict=False)
    )
