"""PyTorch's own kernels as a candidate: the exported program's calls, interpreted one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.frontends.torch_nodes import target_name
from compiler.frontends.torch_tensors import array_of
from compiler.passes.expose import Isolated
from runtime.binding import to_torch
from runtime.parity.source import Source
from runtime.parity.tolerance import OWN_TYPES


class TorchEager:
    """torch in eager mode, on the calls that the exported program consists of (composite ones are decomposed as
    torch.export does it). Equal elements are sorted in their order, which torch leaves open and this package does not;
    memory that nothing has been written to is not compared."""

    name, roundoff = "torch", OWN_TYPES

    def __init__(self, source: Source) -> None:
        self._source = source
        self._values = {key: name for name, key in source.keys.items()}
        self._calls = {fx for fx, _ in self._values}

    def total(self) -> Mapping[str, Any]:
        return self._interpret({}, None)

    def own(self, isolated: Isolated, fed: Sequence[np.ndarray]) -> Mapping[str, Any]:
        results = self._interpret(dict(zip(isolated.fed, fed, strict=True)), isolated.results)
        return {name: results[name] for name in isolated.results if name in results}

    def final(self) -> None:
        return None

    def at(self, source: Source) -> TorchEager:
        """The same candidate on other inputs of the same shapes."""
        return TorchEager(source)

    def _interpret(self, given: Mapping[str, Any], wanted: Sequence[str] | None) -> dict[str, Any]:
        """Results by name; where `given` has a value, later calls read that instead of what was computed."""
        import torch

        seen: dict[str, Any] = {}
        values, calls = self._values, self._calls

        class Interpreter(torch.fx.Interpreter):
            """Notes every call's results."""

            def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
                if target is torch.ops.aten.sort.default:
                    return torch.ops.aten.sort.stable(args[0], stable=True, **_order(args[1:], kwargs))
                return super().call_function(target, args, kwargs)

            def run_node(self, n: Any) -> Any:
                result = super().run_node(n)
                if n.op == "call_function" and n.name in calls and "empty" not in target_name(n.target):
                    return _noted(n.name, result)
                return result

        def _noted(fx: str, result: Any) -> Any:
            if isinstance(result, list | tuple):
                return type(result)(_exchanged((fx, place), item) for place, item in enumerate(result))
            return _exchanged((fx, None), result)

        def _exchanged(key: Any, result: Any) -> Any:
            name = values.get(key)
            if name is None or not isinstance(result, torch.Tensor) or result.is_complex():
                return result
            seen[name] = array_of(result.detach(), name).copy()
            return to_torch(np.array(given[name])) if name in given else result

        structure = self._source.loaded.structure
        assert structure is not None, "a torch model"
        program = structure.program
        with torch.no_grad():
            Interpreter(program.graph_module).run(*self._arguments(program))
        return seen

    def _arguments(self, program: Any) -> list[Any]:
        """What the graph module takes: parameters, buffers, constants and the inputs, in the signature's order."""
        from torch.export.graph_signature import InputKind

        given = dict(zip(self._source.input_names, self._source.arrays, strict=True))
        arguments = []
        for spec in program.graph_signature.input_specs:
            name = getattr(spec.arg, "name", None)
            if name in given:
                arguments.append(to_torch(np.array(given[name])))
            elif spec.kind == InputKind.USER_INPUT:
                arguments.append(spec.arg.value)
            else:
                held = program.state_dict
                arguments.append(held[spec.target] if spec.target in held else program.constants[spec.target])
        return arguments


def _order(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of aten.sort after its operand, by name."""
    return {**dict(zip(("dim", "descending"), args, strict=False)), **kwargs}
