"""Max pooling over regions of interest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.types import TensorType, ValueType

_ATTRS = {"pooled_shape": REQUIRED, "spatial_scale": 1.0}


@op(
    "max_roi_pool",
    onnx=OnnxRow("MaxRoiPool", _ATTRS),
    attrs=_ATTRS,
    host_reason="windows that depend on data",
)
class MaxRoiPool:
    """The maxima of a grid of windows in each region. x [N,C,H,W], rois [R,5] (image, x1, y1, x2, y2; ends included, in
    units of 1/spatial_scale) -> [R,C,*pooled_shape]; 0 for a window outside the image. As Fast R-CNN defines it
    (Girshick 2015)."""

    def infer(call: Call) -> Sequence[ValueType]:
        x, rois = call.tensor(0), call.tensor(1)
        call.same_dtype(0, 1)
        if x.rank != 4 or rois.rank != 2 or len(call.attrs["pooled_shape"]) != 2:
            call.shape_error(f"found {x} and {rois}; expected [N, C, H, W], [R, 5] and a pooled shape of two sizes")
        return [TensorType(x.dtype, (rois.shape[0], x.shape[1], *call.attrs["pooled_shape"]))]  # type: ignore[index]

    def reference(
        x: np.ndarray, rois: np.ndarray, *, pooled_shape: tuple[int, int], spatial_scale: float
    ) -> np.ndarray:
        result = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        for region, (image, *corners) in zip(result, rois, strict=True):
            left, top, right, bottom = np.floor(np.array(corners, x.dtype) * x.dtype.type(spatial_scale) + 0.5)
            rows = _windows(top, bottom, pooled_shape[0], x.shape[2])
            columns = _windows(left, right, pooled_shape[1], x.shape[3])
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    window = x[int(image), :, row, column]
                    if window.size:
                        region[:, i, j] = window.max(axis=(1, 2))
        return result

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.normal(size=(2, 3, 8, 9)).astype(np.float32)
        rois = np.array([[0, 0, 0, 8, 7], [1, 2.4, 1, 6.6, 5], [1, 7, 7, 20, 20]], np.float32)
        yield Sample((x, rois), {"pooled_shape": (2, 3), "spatial_scale": 1.0}, name="whole")
        yield Sample((x, rois), {"pooled_shape": (1, 1), "spatial_scale": 0.5}, name="scaled")


def _windows(first: float, last: float, count: int, size: int) -> list[slice]:
    """`count` windows that cover first..last, cut off at the image's edge."""
    step = max(last - first + 1, 1) / count
    bounds = [(np.floor(i * step) + first, np.ceil((i + 1) * step) + first) for i in range(count)]
    return [slice(*(int(np.clip(edge, 0, size)) for edge in pair)) for pair in bounds]
