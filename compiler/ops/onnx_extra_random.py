"""Random ONNX operators the onnx package has no reference for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.ir import Value
from compiler.op import REQUIRED, Call, OnnxRow, op
from compiler.ops.onnx_types import onnx_dtype
from compiler.types import TensorType, ValueType


def _build_multinomial(b: Builder, node: Any) -> Value:
    return b.emit(
        "multinomial",
        node.required(0),
        hint=node.outputs[0],
        to=onnx_dtype(node.attr("dtype", 6)),
        samples=node.attr("sample_size", 1),
        seed=node.attr("seed"),
    )


@op(
    "multinomial",
    onnx=OnnxRow("Multinomial", build=_build_multinomial),
    attrs={"to": REQUIRED, "samples": 1, "seed": None},
    host_reason="random numbers",
)
class Multinomial:
    """Class numbers drawn by unnormalised log probabilities [batch, classes], `samples` for each row."""

    def infer(call: Call) -> Sequence[ValueType]:
        x = call.tensor(0)
        if x.rank != 2:
            call.shape_error(f"found {x}; expected [batch, classes]")
        return [TensorType(call.attrs["to"], (x.shape[0], call.attrs["samples"]))]  # type: ignore[index]

    def reference(x: np.ndarray, *, to: DType, samples: int, seed: float | None) -> np.ndarray:
        rng = np.random.default_rng(None if seed is None else np.float32(seed).view(np.uint32))
        noise = rng.gumbel(size=(len(x), samples, x.shape[1]))  # the largest of x + Gumbel noise falls so
        return (x[:, None, :].astype(np.float64) + noise).argmax(axis=-1).astype(to.numpy)
