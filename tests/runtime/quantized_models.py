"""Small models in float, and what onnxruntime.quantization makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

Nodes = list[onnx.NodeProto]


class Model:
    """A graph being written: nodes and weights in order."""

    def __init__(self, seed: int = 5) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: Nodes = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: np.ndarray) -> str:
        """A named initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def draw(self, *shape: int, scale: float = 1.0) -> str:
        """A random float32 weight."""
        return self.weight((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def node(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        """A node's output name, or their tuple."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        domain = attrs.pop("domain", "")
        self.nodes.append(helper.make_node(op, list(inputs), names, f"{op}{len(self.nodes)}", domain=domain, **attrs))
        return names[0] if outputs == 1 else tuple(names)

    def finish(self, shape: Sequence[int | str], *results: str, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """The model of one input, x."""
        x = helper.make_tensor_value_info("x", dtype, shape)
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
        for value in outputs:
            value.ClearField("type")
        graph = helper.make_graph(self.nodes, "g", [x], outputs, self.weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def mlp(layers: int = 3, width: int = 48) -> onnx.ModelProto:
    """Gemm and Relu."""
    m, x = Model(), "x"
    for layer in range(layers):
        x = m.node("Gemm", x, m.draw(width, width, scale=width**-0.5), m.draw(width), transB=1)
        x = m.node("Relu", x) if layer < layers - 1 else x
    return m.finish((7, width), x)


def residual() -> onnx.ModelProto:
    """Convolutions with a residual sum, a depthwise one, pools and a linear layer."""
    m = Model()
    x = m.node("Relu", m.node("Conv", "x", m.draw(16, 3, 3, 3, scale=0.3), m.draw(16), pads=[1] * 4, strides=[2, 2]))
    x = m.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = m.node("Relu", m.node("Conv", x, m.draw(24, 16, 1, 1, scale=0.3), m.draw(24)))
    y = m.node("Relu", m.node("Conv", y, m.draw(24, 1, 3, 3, scale=0.3), m.draw(24), pads=[1] * 4, group=24))
    y = m.node("Conv", y, m.draw(16, 24, 3, 3, scale=0.1), m.draw(16), pads=[1] * 4)
    x = m.node("Relu", m.node("Add", x, y))
    x = m.node("Flatten", m.node("GlobalAveragePool", x))
    return m.finish((2, 3, 20, 20), m.node("Gemm", x, m.draw(10, 16), m.draw(10), transB=1))


def transformer(width: int = 32, heads: int = 4, length: int = 9, batch: int = 2) -> onnx.ModelProto:
    """One layer as BERT's."""
    m = Model()

    def linear(x: str, out: int) -> str:
        wide = 4 * width if x.startswith("wide") else width
        product = m.node("MatMul", x, m.draw(wide, out, scale=wide**-0.5))
        return m.node("Add", product, m.draw(out, scale=0.1))

    def split(x: str, *perm: int) -> str:
        shape = m.weight(np.array([batch, length, heads, width // heads]))
        return m.node("Transpose", m.node("Reshape", x, shape), perm=perm)

    q, k, v = (linear("x", width) for _ in range(3))
    dots = m.node("MatMul", split(q, 0, 2, 1, 3), split(k, 0, 2, 3, 1))
    scaled = m.node("Div", dots, m.weight(np.array((width // heads) ** 0.5, np.float32)))
    mixed = m.node("MatMul", m.node("Softmax", scaled, axis=-1), split(v, 0, 2, 1, 3))
    joined = m.node(
        "Reshape", m.node("Transpose", mixed, perm=[0, 2, 1, 3]), m.weight(np.array([batch, length, width]))
    )
    x = m.node("LayerNormalization", m.node("Add", "x", linear(joined, width)), m.draw(width), m.draw(width))
    hidden = m.node("Gelu", linear(x, 4 * width))
    product = m.node("MatMul", hidden, m.draw(4 * width, width, scale=0.1))
    out = m.node("Add", product, m.draw(width, scale=0.1))
    return m.finish(
        (batch, length, width), m.node("LayerNormalization", m.node("Add", x, out), m.draw(width), m.draw(width))
    )


class Samples(CalibrationDataReader):
    """Calibration data: a few random inputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(3)
        self._left = iter([{"x": sample_input(model, rng)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input."""
        return next(self._left, None)


def sample_input(model: onnx.ModelProto, rng: np.random.Generator) -> np.ndarray:
    """A random input of the model."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return rng.standard_normal(dims).astype(np.float32)


def static(model: onnx.ModelProto, path: Path, activations: str, form: str = "QDQ", channels: bool = False) -> bytes:
    """Quantized from calibration data: activations u8 or s8, weights s8."""
    plain, result = path / "plain.onnx", path / "static.onnx"
    onnx.save(model, plain)
    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    quantize_static(str(plain), str(result), Samples(model), QuantFormat[form], per_channel=channels,
                    activation_type=types[activations], weight_type=QuantType.QInt8)  # fmt: skip
    return result.read_bytes()


def dynamic(model: onnx.ModelProto, path: Path) -> bytes:
    """Quantized weights; activations are quantized as they come."""
    plain, result = path / "plain.onnx", path / "dynamic.onnx"
    onnx.save(model, plain)
    quantize_dynamic(str(plain), str(result), weight_type=QuantType.QInt8)
    return result.read_bytes()


def expected(model: bytes, x: np.ndarray, optimized: bool = True) -> list[np.ndarray]:
    """What ONNX Runtime computes on one thread, with its integer kernels or (not `optimized`) node by node."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, {"x": x})
