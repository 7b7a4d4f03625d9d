"""The other runtimes, each as a function from a dictionary of arrays to the list of outputs.

Every one is told the thread count the way its own documentation says, and to keep FP32 as FP32 unless asked otherwise.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Feeds = Mapping[str, np.ndarray]
Runner = Callable[[Feeds], list[np.ndarray]]


class Unsupported(Exception):
    """A peer has no implementation for this model; it sits this one out."""


def installed(name: str) -> bool:
    """Whether the package a peer is made of can be imported."""
    return importlib.util.find_spec(name) is not None


def onnxruntime(model: bytes, threads: int) -> Runner:
    """ONNX Runtime on the CPU, all graph optimisations, sequential execution. Raises Unsupported."""
    import onnxruntime as ort
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except NoKernel as error:
        raise Unsupported(str(error)) from error
    return lambda feeds: session.run(None, feeds)


def openvino(model: bytes, threads: int, precision: str = "f32") -> Runner:
    """OpenVINO on the CPU, latency mode; without the precision hint it may choose BF16 by itself. Tensors may be fed in
    place of arrays."""
    import openvino as ov

    return _openvino(ov.Core().read_model(model), threads, precision)


def openvino_nncf(model: bytes, threads: int, data: Sequence[Feeds]) -> Runner:
    """OpenVINO on what its own tool, NNCF, makes of the model: 8-bit integers with ranges found on `data`, smoothed and
    left out where NNCF thinks best for a transformer (a model with softmax). Raises Unsupported without the package."""
    if not installed("nncf"):
        raise Unsupported("needs the package nncf")
    import logging

    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    read = ov.Core().read_model(model)
    is_transformer = any(node.get_type_name() == "Softmax" for node in read.get_ops())
    kind = nncf.ModelType.TRANSFORMER if is_transformer else None
    return _openvino(nncf.quantize(read, nncf.Dataset(data), model_type=kind), threads, "f32")


def _openvino(model: Any, threads: int, precision: str) -> Runner:
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feeds: Feeds) -> list[np.ndarray]:
        results = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [results[output] for output in compiled.outputs]

    return run


def torch_eager(module: Any, threads: int) -> Callable[..., Any]:
    """The module as it is, in inference mode; takes and gives tensors."""
    import torch

    torch.set_num_threads(threads)

    def run(*inputs: Any, **named: Any) -> Any:
        with torch.inference_mode():
            return module(*inputs, **named)

    return run


def torch_quantized(module: Any) -> Any:
    """The module with its linear layers quantized by torch: weights int8, activations uint8, a scale a tensor, as the
    model runs. Raises Unsupported where products are mostly not those of linear layers."""
    import warnings

    import torch

    if any(isinstance(part, torch.nn.Conv2d) for part in module.modules()):
        raise Unsupported("quantizes linear layers only")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to a package of its own
        return torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, torch.qint8)


def inductor(module: Any, threads: int) -> Callable[..., Any]:
    """torch.compile with its default backend, which needs a C++ compiler; takes and gives tensors."""
    import torch

    torch.set_num_threads(threads)
    compiled = torch.compile(module)

    def run(*inputs: Any, **named: Any) -> Any:
        with torch.inference_mode():
            return compiled(*inputs, **named)

    return run
