"""ONNX Resize and Upsample of every opset as `resize`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.op import OnnxRow
from compiler.ops.onnx_types import onnx_row
from compiler.ops.resize import ONNX_ATTRS, REGION


def _build(b: Builder, node: Any) -> Any:
    attrs = {key: node.attr(key, default) for key, default in ONNX_ATTRS.items()}
    region = node.input(1) if attrs["coordinate_transformation_mode"] == REGION else None
    return b.emit("resize", node.required(0), region, *node.inputs[2:4], **attrs)


def _legacy(node: Any) -> Any:
    """Opsets before 11: positions divided by the scale, nearest rounded down; no roi."""
    mode = "linear" if node.attr("mode", "nearest") in ("linear", "bilinear") else "nearest"
    return node.with_attrs(
        mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor", scales=None,
        height_scale=None, width_scale=None,
    )  # fmt: skip


def _upgrade_resize(b: Builder, node: Any) -> Any:
    return replace(_legacy(node), inputs=(node.inputs[0], None, node.inputs[1]))


def _build_upsample(b: Builder, node: Any) -> Any:
    scales = node.input(1)
    if scales is None:
        given = node.attr("scales") or (1.0, 1.0, node.attr("height_scale"), node.attr("width_scale"))
        scales = b.constant(np.array(given, np.float32))
    attrs = {key: value for key, value in _legacy(node).attrs.items() if key in ONNX_ATTRS}
    return b.emit("resize", node.required(0), None, scales, **attrs)


onnx_row("resize", OnnxRow("Resize", ONNX_ATTRS, build=_build, upgrades=((11, _upgrade_resize),)))
onnx_row(
    "resize",
    OnnxRow(
        "Upsample",
        {"height_scale": None, "mode": "nearest", "scales": None, "width_scale": None},
        build=_build_upsample,
    ),
)
