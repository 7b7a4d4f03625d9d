"""ATen operators that get no row, and why: what an error says about them, and a test demands of the core operators."""

from __future__ import annotations

from collections.abc import Mapping

_TRAINING = "a gradient: only inference is compiled; export the model in eval mode without its loss"
_RANDOM = "random numbers: a compiled program gives the same answer every time; pass the numbers in as an input"
_ALIASES = "it reads memory by strides of a tensor that is no plain row-major one; use views or indexing instead"

REFUSED: Mapping[str, str] = {
    **{
        f"aten.{name}.default": _TRAINING
        for name in (
            *("_adaptive_avg_pool2d_backward", "avg_pool2d_backward", "convolution_backward"),
            *("embedding_dense_backward", "max_pool2d_with_indices_backward", "native_group_norm_backward"),
            *("native_layer_norm_backward",),
        )
    },
    **{
        name: _RANDOM
        for name in (
            *("aten.rand.default", "aten.randn.default", "aten.randperm.default", "aten.rand_like.default"),
            *("aten.randn_like.default", "aten.randint.low", "aten.randint.default", "aten.randint_like.default"),
            *("aten.bernoulli.default", "aten.bernoulli.p", "aten.multinomial.default", "aten.normal.Tensor_Tensor"),
            *("aten.randint_like.low_dtype", "aten.poisson.default", "aten.exponential.default"),
        )
    },
}
