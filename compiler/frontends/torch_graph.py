"""An exported program as a Graph: its inputs, parameters and results; torch_nodes imports what is between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.errors import ModelError, UnsupportedOp
from compiler.frontends.aten import AtenBuilder
from compiler.frontends.aten.complex import Complex, joined, real_type, split
from compiler.frontends.aten.numbers import as_tensor
from compiler.frontends.torch_nodes import Frame
from compiler.frontends.torch_tensors import array_of, complex_view, dtype_of, size_of
from compiler.ir import Graph, Value
from compiler.types import TensorType

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

_KEY_PARTS = ("key", "idx", "name")  # what pytree's path entries hold


@dataclass(frozen=True)
class Leaf:
    """One leaf of the module's inputs or results: kind "value" (graph input or output `number`), "complex" (that holds
    the parts along its last axis), "number" (output `number` holds a Python number) or "constant"."""

    kind: str
    number: int = 0
    constant: Any = None

    def pick(self, outputs: Sequence[Any]) -> Any:
        """This leaf's value, given the graph's outputs."""
        if self.kind == "constant":
            return self.constant
        if self.kind == "complex":
            return complex_view(outputs[self.number])
        return outputs[self.number] if self.kind == "value" else outputs[self.number].item()


@dataclass
class Imported:
    """What `import_program` finds; see ImportedTorch for the fields."""

    graph: Graph
    parameters: Mapping[str, str]
    state: tuple[str, ...]
    writes: tuple[tuple[int, int], ...]
    inputs: tuple[Leaf, ...]
    results: tuple[Leaf, ...]
    known: Mapping[str, Any]


@dataclass
class _Import:
    """The import under way."""

    program: ExportedProgram
    frame: Frame
    symbols: dict[Any, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    shared: dict[tuple[Any, ...], Value] = field(default_factory=dict)


def import_program(program: ExportedProgram, names: Mapping[Any, str]) -> Imported:
    """The graph of a functional exported program. `names`: see torch_export.size_names.

    Raises UnsupportedOp naming every call that no row covers, with its module path.
    """
    frame = Frame(program.graph_module, AtenBuilder())
    work = _Import(program, frame)
    _claim_symbols(work, names)
    inputs, state = _placeholders(work)
    frame.take(list(program.graph.nodes))
    if frame.refused:
        listed = "\n  ".join(refused := list(dict.fromkeys(frame.refused)))
        raise UnsupportedOp(f"{len(refused)} calls of the exported program are not covered:\n  {listed}")
    outputs, results, writes = _outputs(work)
    written = [frame.b.inputs[number].name for _, number in writes]
    frame.b.output_names = _output_names(program, results, written)
    graph = frame.finish(outputs)
    used = graph.constant_names()
    parameters = {name: path for name, path in work.parameters.items() if name in used}
    return Imported(graph, parameters, tuple(state), writes, tuple(inputs), results, frame.known)


def _claim_symbols(work: _Import, names: Mapping[Any, str]) -> None:
    for node in work.program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if node.op == "placeholder" and not isinstance(size, int):
                for symbol in size.node.expr.free_symbols:
                    work.symbols[symbol] = work.frame.b.claim_symbol(names.get(symbol, str(symbol)))


def _placeholders(work: _Import) -> tuple[list[Leaf], list[str]]:
    """Enter inputs and constants; answer the leaves of the user's inputs and the names of what is written to."""
    from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

    signature = work.program.graph_signature
    mutated = {*signature.buffers_to_mutate.values(), *signature.parameters_to_mutate.values()}
    nodes = [node for node in work.program.graph.nodes if node.op == "placeholder"]
    leaves: list[Leaf] = []
    state: list[tuple[str, fx.Node]] = []
    for node, spec in zip(nodes, signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            if isinstance(spec.arg, ConstantArgument):
                leaves.append(Leaf("constant", constant=spec.arg.value))
                work.frame.known[node.name] = spec.arg.value
            elif isinstance(spec.arg, TensorArgument):
                kind = "complex" if node.meta["val"].is_complex() else "value"
                leaves.append(Leaf(kind, len(work.frame.b.inputs)))
                _hold(work, node, work.frame.b.input(node.name, _input_type(work, node)))
            else:
                raise ModelError(f"input {node.name} is a dynamic {type(spec.arg).__name__}; pass it as a 0-d tensor")
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            if spec.target in mutated:
                state.append((spec.target, node))
            else:
                _hold(work, node, _constant(work, node.name, spec.target))
        else:
            work.frame.refused.append(f"input {node.name}: {spec.kind.name}")
    for _, node in state:
        _hold(work, node, work.frame.b.input(node.name, _input_type(work, node)))
    return leaves, [name for name, _ in state]


def _hold(work: _Import, node: fx.Node, value: Value) -> None:
    """Enter a tensor from outside; complex ones come with their parts along the last axis."""
    is_complex = node.meta["val"].is_complex()
    work.frame.known[node.name] = split(work.frame.b, value) if is_complex else value


def _input_type(work: _Import, node: fx.Node) -> TensorType:
    tensor = node.meta["val"]
    sizes = [size if isinstance(size, int) else size_of(size.node.expr, work.symbols) for size in tensor.shape]
    dtype = dtype_of(tensor.dtype)
    return TensorType(real_type(dtype), (*sizes, *[2] * tensor.is_complex()))


def _constant(work: _Import, name: str, path: str) -> Value:
    """A parameter, buffer or constant tensor; tied ones are one constant."""
    held = work.program.state_dict
    tensor = held[path] if path in held else work.program.constants[path]
    key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
    if tensor.numel() and key in work.shared:
        return work.shared[key]
    array = array_of(tensor, path)
    value = work.frame.b.parameter(name, array)
    work.parameters[value.name] = path
    work.shared[key] = value
    return value


def _outputs(work: _Import) -> tuple[list[Value], tuple[Leaf, ...], tuple[tuple[int, int], ...]]:
    """Graph outputs, the leaves of the user's results, and which outputs are written back to which inputs."""
    from torch.export.graph_signature import ConstantArgument, OutputKind

    inputs = {value.name: number for number, value in enumerate(work.frame.b.inputs)}
    buffers = {
        spec.target: spec.arg.name for spec in work.program.graph_signature.input_specs if spec.target is not None
    }
    results: list[Value] = []
    written: list[tuple[Value, int]] = []
    leaves: list[Leaf] = []
    for spec in work.program.graph_signature.output_specs:
        found = None if isinstance(spec.arg, ConstantArgument) else work.frame.known[spec.arg.name]
        if spec.kind == OutputKind.USER_OUTPUT:
            if found is None or isinstance(found, (int, float, bool)):
                leaves.append(Leaf("constant", constant=spec.arg.value if found is None else found))
                continue
            kind = {Value: "value", Complex: "complex"}.get(type(found), "number")
            leaves.append(Leaf(kind, len(results)))
            results.append(_given(work.frame.b, found))
        elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            written.append((_given(work.frame.b, found), inputs[buffers[spec.target]]))
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            written.append((_given(work.frame.b, found), inputs[spec.target]))
        else:
            raise UnsupportedOp(f"output {spec.arg}: {spec.kind.name} of an exported program")
    writes = tuple((len(results) + i, number) for i, (_, number) in enumerate(written))
    return results + [value for value, _ in written], tuple(leaves), writes


def _given(b: AtenBuilder, found: Any) -> Value:
    """A result as a graph output."""
    return joined(b, found) if isinstance(found, Complex) else as_tensor(b, found)


def _output_names(program: ExportedProgram, results: Sequence[Leaf], written: Sequence[str]) -> tuple[str, ...]:
    """What the graph's outputs are called: the keys of the module's result, and the inputs written back."""
    from torch.utils import _pytree

    numbered = _pytree.tree_unflatten(list(range(len(results))), program.call_spec.out_spec)
    names = []
    for (path, _), leaf in zip(_pytree.tree_flatten_with_path(numbered)[0], results, strict=True):
        if leaf.kind != "constant":
            keys = [str(next(getattr(key, part) for part in _KEY_PARTS if hasattr(key, part))) for key in path]
            names.append(".".join(["output", *keys] if not keys or keys[0].isdigit() else keys))
    return (*names, *(f"{name}.written" for name in written))
