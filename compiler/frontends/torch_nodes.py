"""The calls of an fx graph, one after another, through the ATen table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from compiler.errors import UnsupportedOp
from compiler.frontends.aten import NUMBER_ROWS, ROWS, SIZE_ROWS, AtenBuilder
from compiler.frontends.aten.base import shape_of, tensor_type
from compiler.frontends.aten.complex import call_on_complex, is_complex, split
from compiler.frontends.aten.numbers import Number, guard_assertions
from compiler.frontends.aten.refused import REFUSED
from compiler.frontends.torch_control import CONTROL_ROWS, BodyRefused
from compiler.frontends.torch_tensors import array_of, dtype_of
from compiler.ir import Graph, ImportedNode, Value

if TYPE_CHECKING:
    from torch import fx

# Keywords about where and how torch stores a tensor: they change no value.
_STORAGE = frozenset(("layout", "device", "pin_memory", "memory_format", "non_blocking", "copy"))
_TUPLE = (list, tuple)


class _Missing:
    """What a call stands for that was refused, or that needs the result of one that was."""


MISSING = _Missing()


@dataclass
class Frame:
    """One fx graph being imported. `known`: what each fx node stands for. `refused`: messages about calls without a
    row, shared by the bodies of a program. `inside`: the imported node whose body this is, '' for the program itself.
    `elementwise`: scalars of this graph are tensors here, of shapes torch knows nothing of.
    """

    module: fx.GraphModule
    b: AtenBuilder
    refused: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    inside: str = ""
    elementwise: bool = False

    def take(self, nodes: Sequence[fx.Node]) -> None:
        """Import calls in order; placeholders are in `known` already."""
        for node in nodes:
            if node.op == "call_function":
                _call(self, node)
            elif node.op == "get_attr":
                self.known[node.name] = _attribute(self, cast(str, node.target))
            elif node.op not in ("placeholder", "output"):
                self.refuse(node, f"{node.op} {node.target}")

    def refuse(self, node: fx.Node, text: str) -> None:
        """Note a call that cannot be imported, with its source line."""
        source = source_line(node)
        self.refused.append(f"{place_of(node)}: {text}" + (f"\n    {source}" if source else ""))

    def argument(self, argument: Any) -> Any:
        """An fx argument with nodes replaced by what they stand for, and torch's types by this package's."""
        import torch

        if isinstance(argument, torch.fx.Node):
            return self.known.get(argument.name, MISSING)
        if isinstance(argument, _TUPLE):
            items = [self.argument(item) for item in argument]
            return MISSING if any(item is MISSING for item in items) else items
        return dtype_of(argument) if isinstance(argument, torch.dtype) else argument

    def run(self, values: Sequence[Any]) -> list[Any]:
        """The results of this graph as a function of values. Raises BodyRefused."""
        formal = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        self.known.update((node.name, value) for node, value in zip(formal, values, strict=True))
        before = len(self.refused)
        self.take(list(self.module.graph.nodes))
        (output,) = (node for node in self.module.graph.nodes if node.op == "output")
        results = self.argument(output.args[0])
        if results is MISSING or len(self.refused) > before:
            raise BodyRefused
        return list(results) if isinstance(results, _TUPLE) else [results]

    def finish(self, outputs: Sequence[Value]) -> Graph:
        """The finished graph, what was asserted about sizes from data being its guards."""
        guard_assertions(self.b)
        return self.b.finish(outputs)

    def inner(
        self, module: fx.GraphModule, b: AtenBuilder | None = None, inside: str = "", elementwise: bool = False
    ) -> Frame:
        """A frame for a graph within this one: into the same graph, or into `b` as a body of `inside`."""
        elementwise = elementwise or self.elementwise
        return Frame(module, b or self.b, self.refused, inside=inside or self.inside, elementwise=elementwise)


def _attribute(frame: Frame, path: str) -> Any:
    import torch

    found: Any = frame.module
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, torch.Tensor):
        return found
    value = frame.b.constant(array_of(found, path), "constant")
    return split(frame.b, value) if found.is_complex() else value


def _call(frame: Frame, node: fx.Node) -> None:
    name = target_name(node.target)
    if name == "getitem":
        _pick(frame, node)
        return
    control = CONTROL_ROWS.get(name) if not hasattr(node.target, "overloadpacket") else None
    row = ROWS.get(name)
    if control is None and name not in SIZE_ROWS and row is None:
        frame.refuse(node, f"{name}: {REFUSED[name]}" if name in REFUSED else name)
        return
    args = frame.argument(node.args)
    kwargs = {key: frame.argument(item) for key, item in node.kwargs.items() if key not in _STORAGE}
    if args is MISSING or any(item is MISSING for item in kwargs.values()):
        return
    place, b = place_of(node), frame.b
    emitted = len(b.nodes)
    _announce(frame, node)
    try:
        with b.at(place):
            if name in SIZE_ROWS:
                frame.known[node.name] = SIZE_ROWS[name](b, *args, **kwargs)
                return
            if not frame.inside:
                b.imported.append(ImportedNode(place, name.rpartition(".")[0] or name))
            if control is not None:
                frame.known[node.name] = control(frame, place, *args, **kwargs)
                return
            assert row is not None
            if name not in NUMBER_ROWS:
                args, kwargs = _without_numbers(b, node.target, args, kwargs)
            result = call_on_complex(b, name, args, kwargs) if is_complex(b, args) else row(b, *args, **kwargs)
    except BodyRefused:
        return
    except UnsupportedOp as error:
        frame.refuse(node, str(error).removeprefix(f"{place}: "))
        return
    if not frame.elementwise:
        _check(place, node.meta.get("val"), result)
    frame.known[node.name] = result
    if len(b.nodes) == emitted:
        b.notes[place] = "no work: another name for its operand, or a constant"


def _pick(frame: Frame, node: fx.Node) -> None:
    source, number = cast("tuple[fx.Node, int]", node.args)
    if source.name not in frame.known:
        return
    frame.known[node.name] = frame.known[source.name][number]
    if frame.known[node.name] is None and node.users:
        frame.refuse(source, f"result {number} of {source.target} is used; only its first is given")


def _announce(frame: Frame, node: fx.Node) -> None:
    """Tell the builder what torch knows of the call about to be imported."""
    import torch

    meta = node.meta.get("val")
    frame.b.dtypes = _result_dtypes(meta)
    frame.b.signed = _may_be_negative(meta)
    tensors = [n.meta.get("val") for n in node.all_input_nodes]
    frame.b.row_major = lambda: all(
        t.layout == torch.strided and t.is_contiguous() and t.storage_offset() == 0
        for t in tensors
        if isinstance(t, torch.Tensor)
    )


def _may_be_negative(meta: Any) -> bool:
    import torch

    if not isinstance(meta, torch.SymInt):
        return True
    return bool(meta.node.shape_env.bound_sympy(meta.node.expr).lower < 0)


def _without_numbers(
    b: AtenBuilder, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with each Number made a size where the operator wants integers, else a 0-d tensor."""
    types = {argument.name: str(argument.real_type) for argument in target._schema.arguments}
    names = [argument.name for argument in target._schema.arguments]

    def plain(argument: Any, type: str) -> Any:
        if isinstance(argument, Number):
            return argument.size(b) if "int" in type.lower() else argument.value()
        if isinstance(argument, _TUPLE):
            return [plain(item, type) for item in argument]
        return argument

    return (
        [plain(argument, types[name]) for name, argument in zip(names, args, strict=False)],
        {name: plain(argument, types[name]) for name, argument in kwargs.items()},
    )


def target_name(target: Any) -> str:
    """An ATen overload's full name, or a Python function's own."""
    return str(target) if hasattr(target, "overloadpacket") else getattr(target, "__name__", str(target))


def _result_dtypes(meta: Any) -> tuple[Any, ...]:
    found = meta if isinstance(meta, _TUPLE) else (meta,)
    return tuple(dtype_of(tensor.dtype) if hasattr(tensor, "dtype") else None for tensor in found)


def _check(place: str, meta: Any, result: Any) -> None:
    """Whether a row's results have torch's own element types and sizes: a difference is a defect of the row."""
    pairs = zip(meta, result, strict=False) if isinstance(meta, _TUPLE) else ((meta, result),)
    for expected, value in pairs:
        if not isinstance(value, Value) or not hasattr(expected, "shape"):
            continue
        found = tensor_type(value)
        assert found.dtype == dtype_of(expected.dtype), f"{place}: found {found}, torch has {expected.dtype}"
        fits = len(shape_of(value)) == len(expected.shape) and all(
            a == b for a, b in zip(shape_of(value), expected.shape, strict=True) if type(a) is int and type(b) is int
        )
        assert fits, f"{place}: found {found}, torch has {tuple(expected.shape)}"


def place_of(node: fx.Node) -> str:
    """What the ledger and errors call a call: its module's path, then its own name in the exported graph."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module_stack")]
    path = paths[-1].removeprefix("L['self']").lstrip(".") if paths else ""
    return f"{path}/{node.name}" if path else node.name


def source_line(node: fx.Node) -> str:
    """Where the model's source makes a call, as 'file:line: code'; '' where torch does not know."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    places = [i for i, line in enumerate(lines) if line.startswith('File "')]
    if not places:
        return ""
    file, line, *_ = lines[places[-1]].removeprefix("File ").split(", ")
    code = lines[places[-1] + 1] if places[-1] + 1 < len(lines) else ""
    return f"{file.strip(chr(34))}:{line.removeprefix('line ')}" + (f": {code}" if code else "")
