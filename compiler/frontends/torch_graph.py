"""An exported program's fx graph as a Graph: node by node through the ATen table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from compiler.errors import ModelError, UnsupportedOp
from compiler.frontends.aten import ROWS, SIZE_ROWS, AtenBuilder
from compiler.frontends.aten.base import shape_of, tensor_type, to_tensor
from compiler.frontends.torch_tensors import array_of, dtype_of, size_of
from compiler.ir import Graph, ImportedNode, Value
from compiler.types import TensorType, of_array

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

_KEY_PARTS = ("key", "idx", "name")  # what pytree's path entries hold
# Keywords about where and how torch stores a tensor: they change no value.
_STORAGE = frozenset(("layout", "device", "pin_memory", "memory_format", "non_blocking", "copy"))


@dataclass(frozen=True)
class Leaf:
    """One leaf of the module's inputs or results: kind "value" (graph input or output `number`), "size" (output
    `number` holds an integer) or "constant"."""

    kind: str
    number: int = 0
    constant: Any = None

    def pick(self, outputs: Sequence[Any]) -> Any:
        """This leaf's value, given the graph's outputs."""
        if self.kind == "constant":
            return self.constant
        return outputs[self.number] if self.kind == "value" else int(outputs[self.number])


@dataclass
class Imported:
    """What `import_program` finds; see ImportedTorch for the fields."""

    graph: Graph
    parameters: Mapping[str, str]
    state: tuple[str, ...]
    writes: tuple[tuple[int, int], ...]
    inputs: tuple[Leaf, ...]
    results: tuple[Leaf, ...]


@dataclass
class _Import:
    """The import under way: `known` has what each fx node stands for."""

    program: ExportedProgram
    symbols: dict[Any, Any]
    b: AtenBuilder = field(default_factory=AtenBuilder)
    known: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    shared: dict[tuple[Any, ...], Value] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def import_program(program: ExportedProgram, names: Mapping[Any, str]) -> Imported:
    """The graph of a functional exported program. `names`: see torch_export.size_names.

    Raises UnsupportedOp naming every call that no row covers, with its module path.
    """
    work = _Import(program, {})
    _claim_symbols(work, names)
    inputs, state = _placeholders(work)
    for node in program.graph.nodes:
        if node.op == "call_function":
            _call(work, node)
        elif node.op not in ("placeholder", "output"):
            work.refused.append(f"{_place(node)}: {node.op} {node.target}")
    if work.refused:
        listed = "\n  ".join(work.refused)
        raise UnsupportedOp(f"{len(work.refused)} calls of the exported program are not covered:\n  {listed}")
    outputs, results, writes = _outputs(work)
    work.b.output_names = _output_names(program, results, [work.b.inputs[number].name for _, number in writes])
    graph = work.b.finish(outputs)
    parameters = {name: path for name, path in work.parameters.items() if name in graph.constants}
    return Imported(graph, parameters, tuple(state), writes, tuple(inputs), results)


def _claim_symbols(work: _Import, names: Mapping[Any, str]) -> None:
    for node in work.program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if node.op == "placeholder" and not isinstance(size, int):
                for symbol in size.node.expr.free_symbols:
                    work.symbols[symbol] = work.b.claim_symbol(names.get(symbol, str(symbol)))


def _placeholders(work: _Import) -> tuple[list[Leaf], list[str]]:
    """Enter inputs and constants; answer the leaves of the user's inputs and the names of mutated buffers."""
    from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

    signature = work.program.graph_signature
    mutated = set(signature.buffers_to_mutate.values())
    nodes = [node for node in work.program.graph.nodes if node.op == "placeholder"]
    leaves: list[Leaf] = []
    state: list[tuple[str, fx.Node]] = []
    for node, spec in zip(nodes, signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            if isinstance(spec.arg, ConstantArgument):
                leaves.append(Leaf("constant", constant=spec.arg.value))
                work.known[node.name] = spec.arg.value
            elif isinstance(spec.arg, TensorArgument):
                leaves.append(Leaf("value", len(work.b.inputs)))
                work.known[node.name] = work.b.input(node.name, _input_type(work, node))
            else:
                raise ModelError(f"input {node.name} is a dynamic {type(spec.arg).__name__}; pass it as a 0-d tensor")
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            if spec.target in mutated:
                state.append((spec.target, node))
            else:
                work.known[node.name] = _constant(work, node.name, spec.target)
        else:
            work.refused.append(f"input {node.name}: {spec.kind.name}")
    for _, node in state:
        work.known[node.name] = work.b.input(node.name, _input_type(work, node))
    return leaves, [name for name, _ in state]


def _input_type(work: _Import, node: fx.Node) -> TensorType:
    tensor = node.meta["val"]
    sizes = (size if isinstance(size, int) else size_of(size.node.expr, work.symbols) for size in tensor.shape)
    return TensorType(dtype_of(tensor.dtype), tuple(sizes))


def _constant(work: _Import, name: str, path: str) -> Value:
    """A parameter, buffer or constant tensor; tied ones are one constant."""
    held = work.program.state_dict
    tensor = held[path] if path in held else work.program.constants[path]
    key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
    if tensor.numel() and key in work.shared:
        return work.shared[key]
    array = array_of(tensor, path)
    # Entered by hand: Builder.constant shares equal scalars, and two parameters may differ later.
    value = Value(work.b.unique(name), of_array(array))
    work.b.constants[value.name] = array
    work.parameters[value.name] = path
    work.shared[key] = value
    return value


def _call(work: _Import, node: fx.Node) -> None:
    name = _target_name(node.target)
    if name == "getitem":
        source, number = cast("tuple[fx.Node, int]", node.args)
        if source.name not in work.known:
            return
        work.known[node.name] = work.known[source.name][number]
        if work.known[node.name] is None and node.users:
            work.refused.append(
                f"{_place(source)}: result {number} of {source.target} is used; only its first is given"
            )
        return
    size_row = SIZE_ROWS.get(name)
    row = ROWS.get(name)
    if size_row is None and row is None:
        work.refused.append(f"{_place(node)}: {name}")
        return
    args = [_argument(work, argument) for argument in node.args]
    kwargs = {key: _argument(work, item) for key, item in node.kwargs.items() if key not in _STORAGE}
    if any(item is _MISSING for item in [*args, *kwargs.values()]):
        return
    if size_row is not None:
        work.known[node.name] = size_row(*args, **kwargs)
        return
    assert row is not None
    place, emitted = _place(node), len(work.b.nodes)
    work.b.imported.append(ImportedNode(place, name.rpartition(".")[0]))
    work.b.dtypes = _result_dtypes(node.meta.get("val"))
    try:
        with work.b.at(place):
            result = row(work.b, *args, **kwargs)
    except UnsupportedOp as error:
        work.refused.append(str(error))
        return
    _check(place, node.meta.get("val"), result)
    work.known[node.name] = result
    if len(work.b.nodes) == emitted:
        work.b.notes[place] = "no work: another name for its operand, or a constant"


def _target_name(target: Any) -> str:
    """An ATen overload's full name, or a Python function's own."""
    return str(target) if hasattr(target, "overloadpacket") else target.__name__


_MISSING = object()  # what a call stands for whose own import was refused


def _argument(work: _Import, argument: Any) -> Any:
    """An fx argument with nodes replaced by what they stand for, and torch's types by this package's."""
    import torch

    if isinstance(argument, torch.fx.Node):
        return work.known.get(argument.name, _MISSING)
    if isinstance(argument, (list, tuple)):
        items = [_argument(work, item) for item in argument]
        return _MISSING if any(item is _MISSING for item in items) else items
    return dtype_of(argument) if isinstance(argument, torch.dtype) else argument


def _result_dtypes(meta: Any) -> tuple[Any, ...]:
    found = meta if isinstance(meta, (list, tuple)) else (meta,)
    return tuple(dtype_of(tensor.dtype) if hasattr(tensor, "dtype") else None for tensor in found)


def _check(place: str, meta: Any, result: Any) -> None:
    """Whether a row's results have torch's own element types and sizes: a difference is a defect of the row."""
    pairs = zip(meta, result, strict=False) if isinstance(meta, (list, tuple)) else ((meta, result),)
    for expected, value in pairs:
        if not isinstance(value, Value) or not hasattr(expected, "shape"):
            continue
        found = tensor_type(value)
        assert found.dtype == dtype_of(expected.dtype), f"{place}: found {found}, torch has {expected.dtype}"
        fits = len(shape_of(value)) == len(expected.shape) and all(
            a == b for a, b in zip(shape_of(value), expected.shape, strict=True) if type(a) is int and type(b) is int
        )
        assert fits, f"{place}: found {found}, torch has {tuple(expected.shape)}"


def _place(node: fx.Node) -> str:
    """What the ledger and errors call a call: its module's path, then its own name in the exported graph."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module_stack")]
    path = paths[-1].removeprefix("L['self']").lstrip(".") if paths else ""
    return f"{path}/{node.name}" if path else node.name


def _outputs(work: _Import) -> tuple[list[Value], tuple[Leaf, ...], tuple[tuple[int, int], ...]]:
    """Graph outputs, the leaves of the user's results, and which outputs are written back to which inputs."""
    from torch.export.graph_signature import ConstantArgument, OutputKind

    inputs = {value.name: number for number, value in enumerate(work.b.inputs)}
    buffers = {
        spec.target: spec.arg.name for spec in work.program.graph_signature.input_specs if spec.target is not None
    }
    results: list[Value] = []
    written: list[tuple[Value, int]] = []
    leaves: list[Leaf] = []
    for spec in work.program.graph_signature.output_specs:
        found = None if isinstance(spec.arg, ConstantArgument) else work.known[spec.arg.name]
        if spec.kind == OutputKind.USER_OUTPUT:
            if found is None or isinstance(found, (int, float, bool)):
                leaves.append(Leaf("constant", constant=spec.arg.value if found is None else found))
                continue
            leaves.append(Leaf("value" if isinstance(found, Value) else "size", len(results)))
            results.append(found if isinstance(found, Value) else to_tensor(work.b, found))
        elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            written.append((found, inputs[buffers[spec.target]]))
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            written.append((found, inputs[spec.target]))
        else:
            raise UnsupportedOp(f"output {spec.arg}: {spec.kind.name} of an exported program")
    writes = tuple((len(results) + i, number) for i, (_, number) in enumerate(written))
    return results + [value for value, _ in written], tuple(leaves), writes


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
