"""Elementwise and reducing rows against torch eager."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.compiler.frontends.torch_check import check_each

torch.manual_seed(0)
X = torch.randn(3, 5, dtype=torch.float64)
Y = torch.randn(5, dtype=torch.float64)
UNIT = torch.rand(3, 5, dtype=torch.float64) * 0.8 + 0.1
I = torch.tensor([[3, -7, 0], [5, 2, -1]])  # noqa: E741
J = torch.tensor([2, -3, 4])
IMAGE = torch.randn(2, 6, 9, 8)
NARROW = torch.randn(2, 3, 4).bfloat16()

SMOOTH = "exp exp2 expm1 erf erfc sigmoid sin cos tan atan sinh cosh tanh asinh reciprocal square relu sinc"
WHOLE = "floor ceil trunc round neg abs sign sgn isnan isinf isfinite signbit logical_not positive frac"
POSITIVE = "log log2 log10 log1p sqrt rsqrt asin acos atanh logit"
ACTIVATIONS = (
    "silu gelu relu6 leaky_relu elu selu celu softplus mish hardswish hardsigmoid hardtanh logsigmoid softsign "
    "tanhshrink softshrink hardshrink"
)
BINARY = "maximum minimum atan2 copysign hypot fmod remainder logaddexp fmax fmin heaviside eq ne lt le gt ge"


def named(names: str, module: object = torch) -> dict:
    return {name: getattr(module, name) for name in names.split()}


CASES = {
    "unary": ((X,), named(f"{SMOOTH} {WHOLE}")),
    "positive": ((UNIT,), named(POSITIVE)),
    "special": ((torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0]),), {
        **named("relu isnan isinf sign signbit sigmoid tanh exp nan_to_num"),
        "clamp": lambda x: x.clamp(-1, 1),
        "softplus": F.softplus,
    }),
    "activation": ((X,), {
        **named(ACTIVATIONS, F),
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "glu": lambda x: F.glu(x[:, :4]),
        "prelu": lambda x: F.prelu(x, torch.tensor([0.3], dtype=x.dtype)),
        "elu_alpha": lambda x: F.elu(x, 1.5),
        "softplus_beta": lambda x: F.softplus(x, 2.0, 1.0),
    }),
    "binary": ((X, Y), {
        **named(BINARY),
        "add_alpha": lambda x, y: torch.add(x, y, alpha=2),
        "rsub": lambda x, y: 2 - x,
        "div": torch.div,
        "div_floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
        "div_trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        "floor_divide": lambda x, y: x // 0.3,
        "pow": lambda x, y: torch.pow(x.abs(), y),
        "pow_scalar": lambda x, y: x**2 + x**3 + x.abs() ** 0.5 + 2**x + x.abs() ** 1.7 + x**-1,
        "where": lambda x, y: torch.where(x > 0, x, y),
        "where_scalar": lambda x, y: torch.where(x > 0, 1.0, y),
        "lerp": lambda x, y: torch.lerp(x, y, 0.3),
        "lerp_tensor": lambda x, y: torch.lerp(x, y.expand(3, 5), x),
        "clamp": lambda x, y: x.clamp(-0.5, 0.5),
        "clamp_tensor": lambda x, y: x.clamp(y - 1, y + 1),
        "clamp_min": lambda x, y: x.clamp_min(0.1),
        "masked_fill": lambda x, y: x.masked_fill(x > 0, -1e4),
        "masked_fill_tensor": lambda x, y: x.masked_fill(x > 0, torch.tensor(2.0)),
        "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
        "addcdiv": lambda x, y: torch.addcdiv(x, x, y + 10, value=0.5),
        "cosine": lambda x, y: F.cosine_similarity(x, y, dim=-1),
        "cdist": lambda x, y: torch.cdist(x, x + 1),
        "round_decimals": lambda x, y: torch.round(x, decimals=1),
    }),
    "integer": ((I, J), {
        **named("add sub mul maximum eq lt bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor fmod"),
        "div": torch.div,
        "floor_divide": lambda i, j: i // j,
        "div_trunc": lambda i, j: torch.div(i, j, rounding_mode="trunc"),
        "remainder": lambda i, j: i % j,
        "pow": lambda i, j: i**3 + i**5,
        "not": lambda i, j: ~i,
        "shift": lambda i, j: (i << 2) + (i >> 1),
        "to_float": lambda i, j: i * 2.5,
        "exp": lambda i, j: torch.exp(i),
        "int32": lambda i, j: i.int() + 3,
        "uint8": lambda i, j: i.abs().to(torch.uint8) * 3,
        "widened": lambda i, j: i.int() + j,
        "zero_dim": lambda i, j: torch.tensor(3) * i.int(),
        "float_scalar": lambda i, j: (i == 2.0) | (i > 0.5),
        "sum_int32": lambda i, j: i.int().sum(),
        "sum_bool": lambda i, j: i.bool().sum(0),
        "clamp": lambda i, j: i.clamp(-2, 3),
        "one_hot": lambda i, j: F.one_hot(j.abs(), 6),
    }),
    "bfloat16": ((NARROW,), {
        **named("gelu silu", F),
        "add": lambda x: x + 1.3,
        "zero_dim_float": lambda x: x * torch.tensor(2.3),
        "widened": lambda x: x * torch.ones(4),
        "sum": lambda x: x.sum(1),
        "softmax": lambda x: x.softmax(-1),
        "layer_norm": lambda x: F.layer_norm(x, (4,)),
        "rms_norm": lambda x: F.rms_norm(x, (4,)),
        "matmul": lambda x: x @ x.transpose(1, 2),
        "half": lambda x: x.half() * 2,
        "var": lambda x: x.var(-1),
    }),
    "reduction": ((IMAGE,), {
        "sum": lambda x: x.sum(),
        "sum_axes": lambda x: x.sum((1, 3), keepdim=True),
        "mean": lambda x: x.mean((2, 3)),
        "amax": lambda x: x.amax((1, 2)),
        "max": lambda x: x.max(),
        "max_values": lambda x: x.max(1)[0],
        "min_indices": lambda x: x.min(2)[1],
        "argmax": lambda x: x.argmax(),
        "argmax_axis": lambda x: x.argmax(-1, keepdim=True),
        "prod": lambda x: x.prod(1),
        "prod_all": lambda x: x[0, 0, 0].prod(),
        "any": lambda x: (x > 2).any(1),
        "all": lambda x: (x > -1).all(2),
        "var": lambda x: x.var(1),
        "var_population": lambda x: x.var((2, 3), unbiased=False),
        "std": lambda x: x.std(),
        "var_mean": lambda x: torch.var_mean(x, 1)[1],
        "norm": lambda x: x.norm(),
        "norm_1": lambda x: x.norm(1, dim=1),
        "norm_inf": lambda x: x.norm(float("inf"), dim=1),
        "norm_3": lambda x: x.norm(3, dim=1),
        "normalize": lambda x: F.normalize(x, dim=1),
        "logsumexp": lambda x: x.logsumexp(1),
        "softmax": lambda x: x.softmax(1),
        "log_softmax": lambda x: x.log_softmax(-1),
        "zero_dim": lambda x: x[0, 0, 0, 0].sum() + x[0, 0, 0, 0].amax() + x[0, 0, 0, 0].softmax(0),
        "count": lambda x: (x > 0).sum(1),
        "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    }),
}  # fmt: skip


@pytest.mark.parametrize("group", CASES)
def test_rows_agree_with_torch(group: str) -> None:
    tensors, functions = CASES[group]
    check_each(functions, tensors)
