"""Models in each float type as they are written: 16-bit ones, from torch and ONNX, against their truth in float64 and
torch's own error; float64 ones without a float32 anywhere; the truth run of float32 ones."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional

import models
import runtime
from compiler.dtypes import DType
from compiler.expr import Expr, walk
from compiler.frontends import onnx as onnx_files
from compiler.frontends import torch as modules
from compiler.ir import Graph
from compiler.mathlib import expand
from compiler.pipeline import lower_graph
from models import bert, gpt, mlp, resnet
from models.export import to_onnx
from tests.compiler.frontends.torch_check import Each

SLOW = pytest.mark.slow
NARROW = {"bfloat16": (torch.bfloat16, 2.0**-8), "float16": (torch.float16, 2.0**-11)}
PRODUCTS = frozenset((
    "aten.linear", "aten.conv2d", "aten.lstm", "aten.gru", "aten.rnn_tanh",
    "Gemm", "MatMul", "Conv", "LSTM", "GRU",
))  # fmt: skip
Model = tuple[nn.Module, tuple[torch.Tensor, ...]]


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = getattr(nn, kind)(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0])


def _recurrent(kind: str) -> Callable[..., Model]:
    def build(batch: int, dtype: torch.dtype) -> Model:
        torch.manual_seed(1)
        module = Recurrent(kind).eval()
        return module.to(dtype), (torch.randn(batch, 11, 24).to(dtype),)

    return build


BUILD: dict[str, Callable[..., Model]] = {
    "mlp": lambda **of: mlp.build(sizes=(13, 32, 7), **of),
    "resnet": lambda **of: resnet.build(blocks=(1, 1, 1, 1), width=8, classes=10, size=64, **of),
    "bert": lambda **of: bert.build("tiny", seq=9, **of),
    "gpt": lambda **of: gpt.build("tiny", seq=9, **of),
    "lstm": _recurrent("LSTM"),
    "gru": _recurrent("GRU"),
}


def _quick(*names: str) -> list[Any]:
    """All models, those not named among the slow tests: exports and compilations cost seconds."""
    return [name if name in names else pytest.param(name, marks=SLOW) for name in BUILD]


@lru_cache(maxsize=32)
def model(name: str, dtype: torch.dtype = torch.float32) -> Model:
    return BUILD[name](batch=2, dtype=dtype)


@lru_cache(maxsize=8)
def file_of(name: str, dtype: torch.dtype = torch.float32) -> bytes:
    return to_onnx(*model(name, dtype))


def narrowed(data: bytes, dtype: str) -> bytes:
    """A float32 file as one of a 16-bit type: weights and constants rounded, casts and declared types renamed."""
    number = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}[dtype]
    proto = onnx.load_from_string(data)

    def retype(tensor: TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):  # the least float32, which masks are made of, becomes -inf
                array = numpy_helper.to_array(tensor).astype(getattr(ml_dtypes, dtype, None) or dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    for tensor in proto.graph.initializer:
        retype(tensor)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                retype(attribute.t)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = number
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = number
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def wide(result: Any) -> list[np.ndarray]:
    """Results as float64 arrays."""
    found = result if isinstance(result, tuple) else (result,)
    return [x.double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x).astype(np.float64) for x in found]


def doubled(name: str, dtype: torch.dtype) -> list[np.ndarray]:
    """The model of these weights and inputs, computed by torch in float64."""
    module, inputs = model(name, dtype)
    with torch.no_grad():
        return wide(copy.deepcopy(module).double()(*(x.double() if x.is_floating_point() else x for x in inputs)))


def error(found: np.ndarray, exact: np.ndarray) -> float:
    assert found.shape == exact.shape
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def errors_of_torch(name: str, dtype: torch.dtype) -> list[float]:
    module, inputs = model(name, dtype)
    with torch.no_grad():
        return [error(*pair) for pair in zip(wide(module(*inputs)), doubled(name, dtype), strict=True)]


def check_narrow(program: runtime.Program, name: str, dtype: str, exact: list[np.ndarray]) -> None:
    """As exact as the type allows and as torch is, of products of that type, and wholly native."""
    torch_dtype, rounding = NARROW[dtype]
    found = program(*model(name, torch_dtype)[1])
    for result in found if isinstance(found, tuple) else (found,):
        assert str(result.dtype).removeprefix("torch.") == dtype
    of_torch = errors_of_torch(name, torch_dtype)
    for result, truth, bound in zip(wide(found), exact, of_torch, strict=True):
        assert error(result, truth) <= min(1.5 * bound, 4 * rounding), (error(result, truth), bound)
    rows = program.ledger()
    assert not [row for row in rows if row.unit == "host"]
    assert "cuts: none" in program.explain()
    # Attention is left out: its kernel widens 16-bit operands before it multiplies them.
    products = [row for row in rows if row.op in PRODUCTS and row.unit != "none"]
    assert {(row.in_dtype, row.acc_dtype) for row in products} == {(dtype, "float32")}, program.explain()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if dtype == "bfloat16" or name in ("mlp", "lstm") else SLOW)
        for name in BUILD
        for dtype in NARROW
    ],
)
def test_modules_of_16_bits(name: str, dtype: str) -> None:
    torch_dtype = NARROW[dtype][0]
    check_narrow(runtime.compile(*model(name, torch_dtype)), name, dtype, doubled(name, torch_dtype))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", _quick("mlp"))
def test_files_of_16_bits(name: str, dtype: str) -> None:
    data = narrowed(file_of(name), dtype)
    inputs = model(name, NARROW[dtype][0])[1]
    check_narrow(runtime.compile(data), name, dtype, wide(runtime.compile(data, precision="fp64")(*inputs)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["bert", "gpt", "lstm"])
def test_exported_files_of_16_bits(name: str, dtype: str) -> None:
    """Files of modules that are of 16 bits when they are exported."""
    torch_dtype = NARROW[dtype][0]
    data = file_of(name, torch_dtype)
    exact = wide(runtime.compile(data, precision="fp64")(*model(name, torch_dtype)[1]))
    check_narrow(runtime.compile(data), name, dtype, exact)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["bert-minilm", "resnet50"])
def test_large_modules_of_16_bits(name: str, dtype: str) -> None:
    torch_dtype, rounding = NARROW[dtype]
    module, inputs = models.build(name, dtype=torch_dtype)
    program = runtime.compile(module, inputs)
    with torch.no_grad():
        exact = wide(copy.deepcopy(module).double()(*(x.double() if x.is_floating_point() else x for x in inputs)))
        of_torch = [error(*pair) for pair in zip(wide(module(*inputs)), exact, strict=True)]
    for result, truth, bound in zip(wide(program(*inputs)), exact, of_torch, strict=True):
        assert error(result, truth) <= min(1.5 * bound, 16 * rounding), (error(result, truth), bound)
    products = [row for row in program.ledger() if row.op in PRODUCTS and row.unit != "none"]
    assert {(row.in_dtype, row.acc_dtype) for row in products} == {(dtype, "float32")}


def types_within(item: Any) -> Iterator[DType]:
    """Every element type in a kernel spec, its expressions expanded to what the kernel computes."""
    if isinstance(item, DType):
        yield item
    elif isinstance(item, Expr):
        yield from (node.dtype for node in walk(expand(item)))
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from types_within(getattr(item, field.name))
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from types_within(part)


def assert_only_float64(graph: Graph) -> None:
    """No kernel and no weight of the lowered program is of another float type."""
    lowered = lower_graph(graph)
    for call in lowered.calls:
        others = {dtype.name for dtype in types_within(call.spec) if dtype.is_float} - {"float64"}  # type: ignore[union-attr]
        assert not others, f"{call.where}: {call.spec}"  # type: ignore[union-attr]
    assert not {name for name, array in lowered.weights.items() if array.dtype.kind == "f"
                and array.dtype != np.float64}  # fmt: skip


def test_another_type_is_found() -> None:
    with pytest.raises(AssertionError, match="float32"):
        assert_only_float64(modules.load(*model("mlp")).graph)


@pytest.mark.parametrize("name", _quick("mlp", "bert", "lstm"))
def test_modules_of_float64(name: str) -> None:
    module, inputs = model(name, torch.float64)
    assert_only_float64(modules.load(module, inputs).graph)
    for found, exact in zip(wide(runtime.compile(module, inputs)(*inputs)), doubled(name, torch.float64), strict=True):
        assert error(found, exact) <= 1e-14


@pytest.mark.parametrize("name", _quick("gru"))
def test_files_of_float64(name: str) -> None:
    # A file's epsilons and folded weights may be float32, so the file itself says what is exact.
    data, (_, inputs) = file_of(name, torch.float64), model(name, torch.float64)
    assert_only_float64(onnx_files.load(data))
    found, exact = (wide(runtime.compile(data, backend=backend)(*inputs)) for backend in ("native", "reference"))
    for pair in zip(found, exact, strict=True):
        assert error(*pair) <= 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_model_in_float64(name: str) -> None:
    module, inputs = models.build(name)
    module, inputs = copy.deepcopy(module).double(), tuple(x.double() if x.is_floating_point() else x for x in inputs)
    assert_only_float64(modules.load(module, inputs).graph)
    with torch.no_grad():
        exact = wide(module(*inputs))
    for pair in zip(wide(runtime.compile(module, inputs)(*inputs)), exact, strict=True):
        assert error(*pair) <= 1e-14


FUSED: dict[str, Callable[..., torch.Tensor]] = {
    "gelu": lambda x, w: functional.gelu(x @ w),
    "gelu by tanh": lambda x, w: functional.gelu(x @ w, approximate="tanh"),
    "silu": lambda x, w: functional.silu(x @ w),
    "mish": lambda x, w: functional.mish(x @ w),
    "softplus": lambda x, w: functional.softplus(x @ w),
    "softmax": lambda x, w: torch.softmax(x @ w, -1),
    "log softmax": lambda x, w: torch.log_softmax(x @ w, -1),
    "layer norm": lambda x, w: functional.layer_norm(x @ w + x, (24,), w[0], w[1]),
    "rms norm": lambda x, w: functional.rms_norm(x @ w, (24,), w[0]),
    "causal": lambda x, w: functional.scaled_dot_product_attention(x, x @ w, x, is_causal=True),
    "masked": lambda x, w: functional.scaled_dot_product_attention(x, x @ w, x, attn_mask=x @ x.mT),
    "by hand": lambda x, w: torch.softmax(x @ (x @ w).mT / math.sqrt(24), -1) @ x,
    "functions": lambda x, w: torch.exp(torch.sin(x)) + torch.erf(x) * torch.log1p(x * x) + torch.atan(x) ** 3,
}


def test_fusions_of_float64() -> None:
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 17, 24)))
    w = torch.from_numpy(np.random.default_rng(4).standard_normal((24, 24))) / 5
    module = Each(FUSED)
    assert_only_float64(modules.load(module, (x, w)).graph)
    found, exact = runtime.compile(module, (x, w))(x, w), module(x, w)
    errors = {name: error(found[name].numpy(), exact[name].numpy()) for name in FUSED}
    assert max(errors.values()) <= 1e-14, errors


@pytest.mark.parametrize("name", _quick("mlp", "gpt", "gru"))
def test_truth_of_float32(name: str) -> None:
    """precision="fp64" computes what NumPy does in float64, from the same float32 weights and inputs."""
    module, inputs = model(name)
    program, reference = (
        runtime.compile(module, inputs, precision="fp64", backend=backend) for backend in ("native", "reference")
    )
    found, exact = program(*inputs), wide(reference(*inputs))
    assert {result.dtype for result in (found if isinstance(found, tuple) else (found,))} == {torch.float64}
    for result, numpy, of_torch in zip(wide(found), exact, doubled(name, torch.float32), strict=True):
        assert error(result, numpy) <= 1e-14
        assert error(result, of_torch) <= 1e-14
