"""ATen operators that get no row, and why: what an error says about them, and a test demands of the core operators."""

from __future__ import annotations

from collections.abc import Mapping

_TRAINING = "a gradient: only inference is compiled; export the model in eval mode without its loss"
_OUT = "it writes into a given tensor; use the operator without out="

REFUSED: Mapping[str, str] = {
    **{
        f"aten.{name}.default": _TRAINING
        for name in (
            *("_adaptive_avg_pool2d_backward", "avg_pool2d_backward", "convolution_backward"),
            *("embedding_dense_backward", "max_pool2d_with_indices_backward", "native_group_norm_backward"),
            *("native_layer_norm_backward",),
        )
    },
    "aten._native_batch_norm_legit.default": "batch norm that changes its running statistics; call model.eval() first",
    "aten.atan2.out": _OUT,
    "aten.resize_.default": "it changes the size of a tensor in place; make a new one by slicing or padding",
}
