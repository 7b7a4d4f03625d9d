"""Three small ONNX models with what porters meet: an attention block whose reshapes compute their shapes, a
convolutional network, a quantized one. Each comes with a function that draws inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[int], dict[str, np.ndarray]]
FLOAT = TensorProto.FLOAT


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, list], outputs: dict[str, list], weights: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "parity",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """A node named after its first output."""
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}.{outputs.split()[0]}", **attributes)


def attention_block() -> tuple[onnx.ModelProto, Draw]:
    """x [batch, seq, 32] -> [batch, seq, 32]: four heads, GELU by erf, two norms."""
    rng = np.random.default_rng(3)
    width, heads = 32, 4
    w = {f"w{name}": normal(rng, width, width, scale=width**-0.5) for name in "qkvo"}
    w |= {"w1": normal(rng, width, 64, scale=0.2), "b1": normal(rng, 64), "w2": normal(rng, 64, width, scale=0.1)}
    w |= {"gain": 1 + normal(rng, width, scale=0.1), "shift": normal(rng, width), "scale": np.float32(8**-0.5)}
    w |= {"root2": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    w |= {"tail": np.array([heads, width // heads]), "all": np.array([width]), "at": np.array([0, 1])}
    nodes = [node("Shape", "x", "shape"), node("Gather", "shape at", "rows")]
    nodes += [node("Concat", "rows tail", "split", axis=0), node("Concat", "rows all", "joined", axis=0)]
    for name in "qkv":
        nodes += [node("MatMul", f"x w{name}", f"{name}0"), node("Reshape", f"{name}0 split", f"{name}1")]
        nodes += [node("Transpose", f"{name}1", name, perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])]
    nodes += [
        node("MatMul", "q k", "dots"), node("Mul", "dots scale", "scores"), node("Softmax", "scores", "p", axis=-1),
        node("MatMul", "p v", "mixed0"), node("Transpose", "mixed0", "mixed1", perm=[0, 2, 1, 3]),
        node("Reshape", "mixed1 joined", "mixed"), node("MatMul", "mixed wo", "attended"),
        node("Add", "x attended", "sum1"), node("LayerNormalization", "sum1 gain shift", "norm1", epsilon=1e-5),
        node("MatMul", "norm1 w1", "wide0"), node("Add", "wide0 b1", "wide"), node("Div", "wide root2", "g0"),
        node("Erf", "g0", "g1"), node("Add", "g1 one", "g2"), node("Mul", "wide g2", "g3"),
        node("Mul", "g3 half", "gelu"), node("MatMul", "gelu w2", "narrow"), node("Add", "norm1 narrow", "sum2"),
        node("LayerNormalization", "sum2 gain shift", "y", epsilon=1e-5),
    ]  # fmt: skip
    made = model(nodes, {"x": ["batch", "seq", width]}, {"y": ["batch", "seq", width]}, w)
    return made, lambda seed: {"x": normal(np.random.default_rng(seed), 2, 5, width)}


def convolutions() -> tuple[onnx.ModelProto, Draw]:
    """x [batch, 3, 12, 12] -> probabilities [batch, 5]: a residual block, depthwise convolution, squeeze and excite."""
    rng = np.random.default_rng(4)
    w = {"c1": normal(rng, 8, 3, 3, 3, scale=0.3), "c2": normal(rng, 8, 8, 3, 3, scale=0.2)}
    w |= {"d": normal(rng, 8, 1, 3, 3, scale=0.4), "e": normal(rng, 8, 8, 1, 1, scale=0.3), "eb": normal(rng, 8)}
    w |= {"gain": 1 + normal(rng, 8, scale=0.1), "shift": normal(rng, 8), "mean": normal(rng, 8, scale=0.2)}
    w |= {"var": np.abs(normal(rng, 8)) + np.float32(0.5), "fc": normal(rng, 8, 5), "fb": normal(rng, 5)}
    nodes = [
        node("Conv", "x c1", "a0", pads=[1] * 4), node("BatchNormalization", "a0 gain shift mean var", "a1"),
        node("Relu", "a1", "a"), node("Conv", "a c2", "b0", pads=[1] * 4), node("Add", "a b0", "b1"),
        node("HardSwish", "b1", "b"), node("MaxPool", "b", "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "m d", "dw", pads=[1] * 4, group=8), node("GlobalAveragePool", "dw", "s0"),
        node("Conv", "s0 e eb", "s1"), node("Sigmoid", "s1", "s2"), node("Mul", "dw s2", "se"),
        node("AveragePool", "se", "ap", kernel_shape=[3, 3], strides=[3, 3]),
        node("GlobalAveragePool", "ap", "pooled"), node("Flatten", "pooled", "flat"),
        node("Gemm", "flat fc fb", "logits", alpha=0.7), node("Softmax", "logits", "y", axis=-1),
    ]  # fmt: skip
    made = model(nodes, {"x": ["batch", 3, 12, 12]}, {"y": ["batch", 5]}, w)
    return made, lambda seed: {"x": normal(np.random.default_rng(seed), 2, 3, 12, 12)}


def quantized() -> tuple[onnx.ModelProto, Draw]:
    """x [batch, 48] -> [batch, 6]: static and dynamic quantization, products with and without zero points."""
    rng = np.random.default_rng(5)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape, np.int8)

    scalar = np.float32
    w = {"sx": scalar(0.02), "zx": np.uint8(128), "w1": codes(48, 40), "s1": scalar(0.004), "z1": np.int8(0)}
    w |= {"sy": scalar(0.05), "zy": np.uint8(120), "w2": codes(40, 32), "z2": np.int8(3), "s2": scalar(2e-4)}
    w |= {"w3": codes(32, 6), "s3": normal(rng, 6) ** 2 * scalar(0.01) + scalar(1e-3), "b": normal(rng, 32)}
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"),
        node("QLinearMatMul", "xq sx zx w1 s1 z1 sy zy", "hq"),
        node("MatMulInteger", "hq w2 zy z2", "acc"), node("Cast", "acc", "accf", to=FLOAT),
        node("Mul", "accf s2", "h0"), node("Add", "h0 b", "h1"), node("Relu", "h1", "h"),
        node("DynamicQuantizeLinear", "h", "dq ds dz"), node("MatMulInteger", "dq w3 dz", "acc3"),
        node("Cast", "acc3", "accf3", to=FLOAT), node("Mul", "ds s3", "scales"), node("Mul", "accf3 scales", "y"),
    ]  # fmt: skip
    made = model(nodes, {"x": ["batch", 48]}, {"y": ["batch", 6]}, w)
    return made, lambda seed: {"x": normal(np.random.default_rng(seed), 4, 48)}


MODELS = {"attention": attention_block, "convolutions": convolutions, "quantized": quantized}
