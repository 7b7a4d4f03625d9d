"""ONNX Runtime and OpenVINO as candidates: the model with every node's results among its outputs, and a model in which
every node has inputs of its own.

Both optimise as in production; exposed results keep them from fusing what lies between, so `total` shows their kernels
and not their fusions, and `final` is the model as it is. A model travels as bytes: its weights must stay below 2 GiB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.errors import SansuanError
from compiler.passes.expose import Isolated
from runtime.parity.source import Source
from runtime.parity.tolerance import OWN_TYPES

_OWN = "/own"  # what an isolated node's results are called, after their names in the model


class _Peer:
    """What both share: the models they run."""

    name = ""
    roundoff = OWN_TYPES

    def __init__(self, source: Source, threads: int) -> None:
        self._source, self._threads = source, threads
        self._names = {key: value for value, key in source.keys.items()}
        self._compiled: dict[Any, Any] = {}

    def total(self) -> Mapping[str, Any]:
        names = [str(key) for key in self._source.keys.values()]
        return self._given(self._run("total", lambda: with_outputs(self._source, names), self._feeds(), names), "")

    def own(self, isolated: Isolated, fed: Sequence[np.ndarray]) -> Mapping[str, Any]:
        results = {str(self._source.keys[name]) for name in isolated.results if name in self._source.keys}
        known = {**self._feeds(), **isolated.baked, **dict(zip(isolated.fed, fed, strict=True))}
        values = {str(self._source.keys.get(name, name)): array for name, array in known.items()}
        model, feeds, names = isolated_model(self._source, values, results)
        return self._given(self._run(isolated, lambda: model, feeds, names), _OWN) if names else {}

    def final(self) -> Mapping[str, Any]:
        names = [name for name, _ in self._source.outputs]
        return self._run("final", lambda: with_outputs(self._source, []), self._feeds(), names)

    def at(self, source: Source) -> Any:
        """The same candidate on other inputs of the same shapes."""
        other = type(self)(source, self._threads)
        other._compiled = self._compiled
        return other

    def _feeds(self) -> dict[str, Any]:
        return dict(zip(self._source.input_names, self._source.arrays, strict=True))

    def _given(self, results: Mapping[str, Any], ending: str) -> dict[str, Any]:
        return {self._names[name.removesuffix(ending)]: array for name, array in results.items()}

    def _run(self, key: Any, model: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        if key not in self._compiled:
            try:
                self._compiled[key] = self._load(model().SerializeToString())
            except Exception as error:  # these packages have no error class of their own
                raise SansuanError(f"{self.name} does not take this model: {error}") from error
        return self._results(self._compiled[key], feeds, names)

    def _load(self, model: bytes) -> Any:
        raise NotImplementedError

    def _results(self, loaded: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError


class OnnxRuntime(_Peer):
    """ONNX Runtime on the CPU, all graph optimisations, sequential execution."""

    name = "onnxruntime"

    def _load(self, model: bytes) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _results(self, loaded: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        wanted = {item.name for item in loaded.get_inputs()}
        known = [name for name in names if name in {item.name for item in loaded.get_outputs()}]
        results = loaded.run(known, {name: array for name, array in feeds.items() if name in wanted})
        return {name: result for name, result in zip(known, results, strict=True) if isinstance(result, np.ndarray)}


class OpenVino(_Peer):
    """OpenVINO on the CPU, told to keep FP32 as FP32."""

    name = "openvino"

    def _load(self, model: bytes) -> Any:
        import openvino as ov

        settings = {"INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        core = ov.Core()
        return core.compile_model(core.read_model(model), "CPU", settings)

    def _results(self, loaded: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        wanted = {name for port in loaded.inputs for name in port.get_names()}
        results = loaded({name: array for name, array in feeds.items() if name in wanted})
        places = {name: port for port in loaded.outputs for name in port.get_names()}
        return {name: np.array(results[places[name]]) for name in names if name in places}


def with_outputs(source: Source, names: Collection[str]) -> Any:
    """The source's ModelProto with these values among its outputs."""
    model = _inlined(source)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(_typeless(name) for name in names if name not in present)
    return model


def isolated_model(
    source: Source, values: Mapping[str, Any], results: Collection[str], ending: str = _OWN
) -> tuple[Any, Any, list[str]]:
    """A model of the nodes that give `results`, each reading what `values` holds under its inputs' names: the model,
    its feeds, and its outputs' names, which get `ending`. A node that reads what `values` does not have stays away."""
    from onnx import helper

    from compiler.frontends.onnx_order import initializer_names, reads

    model = _inlined(source)
    graph = model.graph
    constants = set(initializer_names(graph))
    nodes, names = [], list[str]()
    feeds: dict[str, Any] = {}
    for node in graph.node:
        needed = [name for name in reads(node) if name not in constants]
        if not set(node.output) & set(results) or not all(name in values for name in needed):
            continue
        feeds.update((name, values[name]) for name in needed)
        names += [f"{name}{ending}" for name in node.output if name in results]
        copy = type(node)()
        copy.CopyFrom(node)
        copy.output[:] = [f"{name}{ending}" if name else "" for name in node.output]
        nodes.append(copy)
    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    for field in ("node", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.input.extend(types)
    graph.output.extend(_typeless(name) for name in names)
    return model, feeds, names


def _inlined(source: Source) -> Any:
    """A copy of the model with its weights in it."""
    import onnx

    if isinstance(source.model, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source.model)
        return model
    if isinstance(source.model, bytes):
        return onnx.load_from_string(source.model)
    return onnx.load(source.model)


def _typeless(name: str) -> Any:
    import onnx

    return onnx.ValueInfoProto(name=name)
