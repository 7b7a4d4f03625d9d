"""DepthToSpace and SpaceToDepth: a reshape, a transpose, a reshape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler.builder import Builder
from compiler.dims import Size
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.shape import known_shape
from compiler.types import TensorType


def _rearrange(b: Builder, x: Value, split: Sequence[Size], perm: Sequence[int], shape: Sequence[Size]) -> Value:
    """reshape to `split`, transpose, reshape to `shape`."""
    parted = b.emit("reshape", x, b.sizes(split))
    return b.emit("reshape", b.emit("transpose", parted, perm=tuple(perm)), b.sizes(shape))


@op("depth_to_space", onnx="DepthToSpace", attrs={"blocksize": REQUIRED, "mode": "DCR"})
class DepthToSpace:
    """Blocks of channels moved into space: [N, C b b, H, W] -> [N, C, H b, W b]."""

    def infer(call: Call) -> list[TensorType]:
        x, block = call.tensor(0), call.attrs["blocksize"]
        n, c, h, w = x.shape
        return [TensorType(x.dtype, (n, c // (block * block), h * block, w * block))]

    def reference(x: np.ndarray, *, blocksize: int, mode: str) -> np.ndarray:
        n, c, h, w = x.shape
        b, depth = blocksize, c // blocksize**2
        if mode == "DCR":
            moved = x.reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            moved = x.reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return moved.reshape(n, depth, h * b, w * b)

    def decompose(b: Builder, node: Node) -> Value:
        n, c, h, w = known_shape(node.inputs[0])
        s = node.attrs["blocksize"]
        depth = c // (s * s)
        if node.attrs["mode"] == "DCR":
            return _rearrange(b, node.inputs[0], (n, s, s, depth, h, w), (0, 3, 4, 1, 5, 2), known_shape(node.output))
        return _rearrange(b, node.inputs[0], (n, depth, s, s, h, w), (0, 1, 4, 2, 5, 3), known_shape(node.output))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 8, 3, 2)).astype(np.float32)
        for mode in ("DCR", "CRD"):
            yield Sample((x,), {"blocksize": 2, "mode": mode}, name=mode)


@op(
    "space_to_depth",
    onnx="SpaceToDepth",
    attrs={"blocksize": REQUIRED, "mode": "DCR"},
)
class SpaceToDepth:
    """Blocks of space moved into channels: [N, C, H b, W b] -> [N, C b b, H, W]."""

    def infer(call: Call) -> list[TensorType]:
        x, block = call.tensor(0), call.attrs["blocksize"]
        n, c, h, w = x.shape
        return [TensorType(x.dtype, (n, c * (block * block), h // block, w // block))]

    def reference(x: np.ndarray, *, blocksize: int, mode: str) -> np.ndarray:
        n, c, h, w = x.shape
        b = blocksize
        parted = x.reshape(n, c, h // b, b, w // b, b)
        moved = parted.transpose(0, 3, 5, 1, 2, 4) if mode == "DCR" else parted.transpose(0, 1, 3, 5, 2, 4)
        return moved.reshape(n, c * b * b, h // b, w // b)

    def decompose(b: Builder, node: Node) -> Value:
        n, c, h, w = known_shape(node.inputs[0])
        s = node.attrs["blocksize"]
        perm = (0, 3, 5, 1, 2, 4) if node.attrs["mode"] == "DCR" else (0, 1, 3, 5, 2, 4)
        return _rearrange(b, node.inputs[0], (n, c, h // s, s, w // s, s), perm, known_shape(node.output))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.standard_normal((2, 3, 4, 6)).astype(np.float32),), {"blocksize": 2})
