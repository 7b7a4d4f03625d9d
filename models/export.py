"""ONNX files of the models, with named dynamic sizes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

OPSET = 20


def to_onnx(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: str | Path | None = None,
    dynamic: Sequence[Mapping[int, str | torch.export.Dim]] = (),
) -> bytes:
    """The model as an ONNX file's bytes, also written to `path` if given. Inputs are called as forward's parameters.

    `dynamic` has, for each input, axis -> name of its size; equal names are equal sizes, a Dim also has a range. At
    most 2 GB of weights (protobuf's limit; the file holds its own weights). The exporter's warnings, about packages and
    names of its own concern, are left out.
    """
    dims = {size: torch.export.Dim(size) for axes in dynamic for size in axes.values() if isinstance(size, str)}
    shapes = (
        tuple({axis: dims[size] if isinstance(size, str) else size for axis, size in axes.items()} for axes in dynamic)
        or None
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            model, inputs, dynamo=True, dynamic_shapes=shapes, opset_version=OPSET, verbose=False
        )
    assert exported is not None, "torch.onnx.export gives a program when dynamo=True"
    data = exported.model_proto.SerializeToString()
    if path is not None:
        Path(path).write_bytes(data)
    return data
