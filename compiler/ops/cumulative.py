"""CumSum and CumProd: core running reductions along the axis an operand names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.ir import Node, Value
from compiler.kernels import computes
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.core_running import running
from compiler.ops.elementwise import NUMBER, check_kind
from compiler.ops.shape import known_shape
from compiler.types import TensorType


def _declare_running(name: str, onnx: str, fn: str) -> None:
    attrs = {"exclusive": 0, "reverse": 0}

    @op(
        name,
        onnx=OnnxRow(onnx, attrs),
        attrs=attrs,
        value_operands=(1,),
        host_reason="the axis is computed in the graph, or kernels do not compute on the type",
    )
    class Running:
        """Running sum or product along the axis in operand 1, with or without the element itself, from either end."""

        def infer(call: Call) -> list[TensorType]:
            x, axis = call.tensor(0), call.value(1)
            check_kind(call, x.dtype, NUMBER)
            if x.shape is not None and axis is not None:
                call.axis(int(axis.reshape(())), len(x.shape))
            return [x]

        def reference(x: np.ndarray, axis: np.ndarray, *, exclusive: int, reverse: int) -> np.ndarray:
            return running(x, int(axis.reshape(())) % x.ndim, fn, bool(exclusive), bool(reverse))

        def decompose(b: Builder, node: Node) -> Value | None:
            x, axis = node.inputs
            known, shape = b.contents(axis), known_shape(x)
            if known is None or not computes(x.type.dtype):
                return None
            along = int(known.reshape(())) % len(shape)
            parts = (dims.product(shape[:along]), shape[along], dims.product(shape[along + 1 :]))
            flags = {key: bool(value) for key, value in node.attrs.items()}
            total = b.emit("running", b.emit("reshape", x, b.sizes(parts)), fn=fn, **flags, hint=name)
            return b.emit("reshape", total, b.sizes(shape))

        def samples(rng: np.random.Generator) -> Iterator[Sample]:
            x = rng.uniform(0.5, 1.5, (2, 7, 3))
            for dtype in (np.float32, np.float64, np.int64, np.int32):
                yield Sample(((x * 2).astype(dtype), np.array(1)), tolerance=2, name=np.dtype(dtype).name)
            single = x.astype(np.float32)
            for exclusive, reverse in ((1, 0), (0, 1), (1, 1)):
                flags = {"exclusive": exclusive, "reverse": reverse}
                yield Sample((single, np.array(-1)), flags, 2, f"exclusive{exclusive} reverse{reverse}")
                long = rng.uniform(0.99, 1.01, (1030, 1)).astype(np.float32)
                yield Sample((long, np.array(0)), flags, 2, f"long exclusive{exclusive} reverse{reverse}")


_declare_running("cum_sum", "CumSum", "sum")
_declare_running("cum_prod", "CumProd", "prod")
