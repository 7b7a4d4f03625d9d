"""Models of 8-bit integers as ONNX Runtime's own tool makes them from a float file."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np


def dynamic(model: bytes) -> bytes:
    """quantize_dynamic: weights int8, a scale a column; activations uint8, a scale a tensor, both as the model runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _quantized(
        model, lambda source, target: quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
    )


def qdq(model: bytes, data: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """quantize_static: QuantizeLinear and DequantizeLinear around operations; weights int8, a scale a column;
    activations uint8 of the range seen when the model runs on `data`, feeds by input name. A model with softmax has its
    products quantized only: with its masks and sums in 8 bits as well, what the trained MiniLM answers is noise."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(data)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.left, None)

    has_softmax = any(node.op_type == "Softmax" for node in onnx.load_model_from_string(model).graph.node)

    def quantize(source: Path, target: Path) -> None:
        quantize_static(
            source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"] if has_softmax else None,
        )  # fmt: skip

    return _quantized(model, quantize)


def _quantized(model: bytes, quantize: Callable[[Path, Path], None]) -> bytes:
    """What `quantize` writes of a model that is prepared first, as the tool asks for: shapes inferred, batch norms
    folded. Shapes the file itself tells are left out: those of weights become wrong when the tool transposes them. So
    are the tool's remarks."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given, prepared, target = (Path(folder, f"{name}.onnx") for name in ("given", "prepared", "quantized"))
            proto = onnx.load_model_from_string(model)
            del proto.graph.value_info[:]
            given.write_bytes(proto.SerializeToString())
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            quantize(prepared, target)
            return target.read_bytes()
    finally:
        root.setLevel(level)
