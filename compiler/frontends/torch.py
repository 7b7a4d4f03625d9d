"""The PyTorch front end: a module or an exported program becomes a graph, its weights shared and not copied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import ModelError
from compiler.frontends import torch_export
from compiler.frontends.torch_graph import Leaf, import_program
from compiler.frontends.torch_tensors import array_of, parts_of
from compiler.ir import Graph

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


@dataclass(frozen=True, eq=False)
class ImportedTorch:
    """A graph and how it stands to the module it came from.

    graph: its inputs are the tensors among the module's inputs, flattened in order, then `state`; its outputs the
    values `results` refer to, then what `writes` stores back.
    parameters: constant name -> qualified name of the parameter or buffer it shares memory with.
    state: qualified names of buffers the module changes as it runs; they are graph inputs.
    writes: (graph output, input number) pairs: after a run the output is copied into that input.
    ranges: least and greatest size (None: any) of named sizes that may not vary freely.
    simple_inputs: every input is one tensor by position and there is no `state`: `flatten(args, {})` is args.
    result_kind: "tensor" or "tuple" where `unflatten` answers outputs[0] or tuple(outputs), else "tree".
    program: the exported program the graph was made of.
    known: what each of its fx nodes, by name, stands for: a Value of the graph where it is one real tensor.
    """

    graph: Graph
    parameters: Mapping[str, str]
    state: tuple[str, ...]
    writes: tuple[tuple[int, int], ...]
    results: tuple[Leaf, ...]
    ranges: Mapping[str, tuple[int, int | None]]
    simple_inputs: bool
    result_kind: str
    program: ExportedProgram
    known: Mapping[str, Any]
    _module: torch.nn.Module | None
    _inputs: tuple[Leaf, ...]
    _parameter_names: tuple[str, ...]

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The tensors for graph.inputs, in order, from a call's arguments (keywords as in the module's forward).

        Raises ModelError where the arguments' structure, or a value that is no tensor, differs from the example's.
        """
        from torch.utils import _pytree

        args, kwargs = self._as_exported(tuple(args), dict(kwargs))
        leaves, spec = _pytree.tree_flatten((args, kwargs))
        if spec != self.program.call_spec.in_spec:
            raise ModelError(
                f"the inputs are nested as {spec}; expected {self.program.call_spec.in_spec} as in example_inputs; "
                "compile again for another structure"
            )
        tensors: list[Any] = []
        for leaf, expected in zip(leaves, self._inputs, strict=True):
            if expected.kind == "value":
                tensors.append(leaf)
            elif expected.kind == "complex":
                tensors.append(parts_of(leaf, f"input {len(tensors)}"))
            elif leaf is not expected.constant and leaf != expected.constant:
                raise ModelError(
                    f"an input is {leaf!r}; expected {expected.constant!r} as in example_inputs: values that are no "
                    "tensors are fixed when the model is compiled; compile again for another one"
                )
        return tensors + self.present_state()

    def present_state(self) -> list[Any]:
        """The tensors of `state` as they are now."""
        state = [self._read(name) for name in self.state]
        return [parts_of(tensor, "state") if tensor.is_complex() else tensor for tensor in state]

    def unflatten(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> Any:
        """The module's own output structure from the graph's outputs (torch tensors) and the inputs of the call,
        as `flatten` gave them; changed buffers and inputs are written back."""
        from torch.utils import _pytree

        self.write_back(outputs, inputs)
        leaves = [leaf.pick(outputs) for leaf in self.results]
        return _pytree.tree_unflatten(leaves, self.program.call_spec.out_spec)

    def write_back(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> None:
        """Store what the module changes: buffers, and inputs (tensors or arrays) it works on in place."""
        import torch

        with torch.no_grad():
            for output, number in self.writes:
                target = inputs[number]
                if isinstance(target, torch.Tensor):
                    target.copy_(outputs[output])
                else:
                    np.copyto(target, outputs[output].numpy())

    def weights(self) -> dict[str, np.ndarray]:
        """The present contents of every parameter constant, by constant name, sharing memory with the module."""
        return {constant: array_of(self._read(name), name) for constant, name in self.parameters.items()}

    def _read(self, name: str) -> torch.Tensor:
        found: Any = self._module
        if found is not None:
            for part in name.split("."):
                found = getattr(found, part, None)
        if found is None:
            found = self.program.state_dict.get(name, self.program.constants.get(name))
        return found

    def _as_exported(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments moved between position and keyword to where the example had them, keywords in its order."""
        in_spec = self.program.call_spec.in_spec
        positions = in_spec.child(0).num_children
        keywords = list(in_spec.child(1).context or ())
        names = list(self._parameter_names)
        if len(args) > positions:
            kwargs = {**dict(zip(names[positions:], args[positions:], strict=False)), **kwargs}
            args = args[:positions]
        while len(args) < positions and len(args) < len(names) and names[len(args)] in kwargs:
            args = (*args, kwargs.pop(names[len(args)]))
        ordered = {key: kwargs[key] for key in keywords if key in kwargs}
        return args, {**ordered, **kwargs}


def load(
    model: torch.nn.Module | ExportedProgram,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ImportedTorch:
    """The model as a graph.

    `example_inputs`: a tuple of positional inputs, a dict of keyword inputs, or a pair (tuple, dict); not needed for
    an exported program. `dynamic_shapes` as in torch.export, a string in place of a Dim names it; sizes not named
    there are fixed. Raises UnsupportedOp listing every call no row covers, ShapeError, ModelError.
    """
    import torch

    module = model if isinstance(model, torch.nn.Module) else None
    if module is not None and example_inputs is None:
        raise ModelError("a torch.nn.Module needs example_inputs: a tuple and/or a dict of tensors it accepts")
    args, kwargs = split_inputs(example_inputs)
    program = torch_export.export(model, args, kwargs, dynamic_shapes)
    names = torch_export.size_names(program)
    imported = import_program(program, names)
    in_spec = program.call_spec.in_spec
    return ImportedTorch(
        graph=imported.graph,
        parameters=imported.parameters,
        state=imported.state,
        writes=imported.writes,
        results=imported.results,
        ranges=torch_export.size_ranges(program, names, dynamic_shapes),
        simple_inputs=_is_flat(in_spec)
        and all(leaf.kind == "value" for leaf in imported.inputs)
        and not imported.state,
        result_kind=_result_kind(program.call_spec.out_spec, imported.results, bool(imported.writes)),
        program=program,
        known=imported.known,
        _module=module,
        _inputs=imported.inputs,
        _parameter_names=_forward_names(module.forward if module is not None else None),
    )


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs from a tuple, a dict, a pair (tuple, dict), a single tensor, or None."""
    if example_inputs is None:
        return (), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if not isinstance(example_inputs, (tuple, list)):
        return (example_inputs,), {}
    if len(example_inputs) == 2 and isinstance(example_inputs[0], tuple) and isinstance(example_inputs[1], dict):
        return example_inputs[0], dict(example_inputs[1])
    return tuple(example_inputs), {}


def _forward_names(forward: Callable[..., Any] | None) -> tuple[str, ...]:
    if forward is None:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, p in inspect.signature(forward).parameters.items() if p.kind in kinds)


def _is_flat(in_spec: Any) -> bool:
    positional, keywords = in_spec.child(0), in_spec.child(1)
    return keywords.num_children == 0 and all(positional.child(i).is_leaf() for i in range(positional.num_children))


def _result_kind(out_spec: Any, results: Sequence[Leaf], writes: bool) -> str:
    in_order = all(leaf.kind == "value" and leaf.number == i for i, leaf in enumerate(results))
    if writes or not in_order:
        return "tree"
    if out_spec.is_leaf():
        return "tensor"
    flat = out_spec.type is tuple and all(out_spec.child(i).is_leaf() for i in range(out_spec.num_children))
    return "tuple" if flat else "tree"
