"""Quantized torch models: pt2e exports, torchao's tensor subclasses, fake quantization, packed weights.

Values are torch's own within one quantum: torch multiplies by a rounded reciprocal where quantize_linear divides, so a
number halfway between two quanta may go the other way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import runtime
from compiler.errors import UnsupportedOp
from compiler.frontends.torch import load
from models import bert
from tests.compiler.frontends.torch_check import Each, call

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchao registers types in ways this torch has deprecated
    pytest.importorskip("torchao")
    from torchao import quantization as ao
    from torchao.quantization import PerGroup, PerRow, PerTensor
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as inductor
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

QUANTIZED = torch.ops.quantized_decomposed


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.conv(x) + x)
        return self.head(nn.functional.max_pool2d(x, 2).mean((2, 3)))


MODELS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (Layers, (4, 64)),
    "conv": (Residual, (2, 3, 8, 8)),
}


def model(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    make, shape = MODELS[name]
    return make().eval().to(dtype), torch.randn(shape).to(dtype)


def exported(module: nn.Module, inputs: tuple[torch.Tensor, ...], quantizer: Any) -> nn.Module:
    """A module as torchao's export flow leaves it, calibrated on one example."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(torch.export.export(module, inputs).module(), quantizer)
        prepared(*inputs)
        return convert_pt2e(prepared)


def pt2e(name: str, quantizer: Any) -> tuple[nn.Module, torch.Tensor]:
    """A model and its example, exported and quantized."""
    module, x = model(name)
    return exported(module, (x,), quantizer), x


def of_inductor(is_dynamic: bool = False, reduce_range: bool = False) -> Any:
    config = inductor.get_default_x86_inductor_quantization_config(is_dynamic=is_dynamic, reduce_range=reduce_range)
    return inductor.X86InductorQuantizer().set_global(config)


def of_xnnpack(is_dynamic: bool = False, is_per_channel: bool = True) -> Any:
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=is_per_channel, is_dynamic=is_dynamic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copy torchao keeps for its own tests says that it is one
        return xnnpack.XNNPACKQuantizer().set_global(config)


def assert_quanta(found: torch.Tensor, expected: torch.Tensor, name: str, far: float = 0.02) -> None:
    """Integers one apart at most; floats close for nearly all elements, and a few quanta of 8 bits elsewhere."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    difference = (found.double() - expected.double()).abs()
    if not expected.is_floating_point():
        assert difference.max() <= 1, name
        assert (difference > 0).double().mean() <= 0.01, name
        return
    size = expected.double().abs().max().item()
    near = {torch.float32: 2e-6, torch.float64: 1e-7}.get(expected.dtype, 1e-2) * size
    assert difference.max() <= far * size, f"{name}: off by {difference.max().item() / size}"
    assert (difference > near).double().mean() <= 0.1, name


def check(functions: Mapping[str, Callable[..., Any]], tensors: Sequence[torch.Tensor]) -> None:
    """Each function of the tensors against torch's own result."""
    module = Each(functions)
    found, expected = call(load(module, tuple(tensors)), *tensors), module(*tensors)
    for name in functions:
        pairs = zip(found[name], expected[name], strict=True) if isinstance(expected[name], tuple) else None
        for i, (f, e) in enumerate(pairs or [(found[name], expected[name])]):
            assert_quanta(f, e, f"{name} {i}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_scale_for_all(dtype: torch.dtype) -> None:
    def both(low: int, high: int, zero: int, to: torch.dtype, **more: Any) -> Callable[..., Any]:
        def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            held = QUANTIZED.quantize_per_tensor(x, 0.037, zero, low, high, to)
            return held, QUANTIZED.dequantize_per_tensor(held, 0.037, zero, low, high, to, **more)

        return run

    def of_tensors(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale, zero = torch.tensor([0.037]), torch.tensor([5])
        held = QUANTIZED.quantize_per_tensor.tensor(x, scale, zero, -100, 100, torch.int8)
        return held, QUANTIZED.dequantize_per_tensor.tensor(held, scale, zero, -100, 100, torch.int8)

    def of_tensor_limits(x: torch.Tensor) -> torch.Tensor:
        limits = torch.tensor(-50), torch.tensor(60)
        return QUANTIZED.quantize_per_tensor.tensor2(x, torch.tensor(0.1), torch.tensor(1), *limits, torch.int8)

    check(
        {
            "int8": both(-128, 127, 7, torch.int8),
            "symmetric": both(-127, 127, 0, torch.int8),
            "half": both(0, 127, 60, torch.uint8),
            "uint8": both(0, 255, 130, torch.uint8, out_dtype=torch.float16),
            "int16": both(-32768, 32767, -3, torch.int16),
            "tensors": of_tensors,
            "limits": of_tensor_limits,
        },
        (torch.linspace(-9, 9, 600).reshape(20, 30).to(dtype),),
    )


def test_narrower_limits_are_kept_exactly() -> None:
    x = torch.tensor([-1e6, -127.6, -126.6, 126.4, 127.4, 1e6])
    functions = {
        "symmetric": lambda x: QUANTIZED.quantize_per_tensor(x, 1.0, 0, -127, 127, torch.int8),
        "half": lambda x: QUANTIZED.quantize_per_tensor(x, 1.0, 0, 0, 127, torch.uint8),
        "channels": lambda x: QUANTIZED.quantize_per_channel(
            x, torch.ones(6), torch.zeros(6, dtype=torch.int64), 0, -7, 7, torch.int8
        ),
    }
    found = call(load(Each(functions), (x,)), x)
    assert found["symmetric"].tolist() == [-127, -127, -127, 126, 127, 127]
    assert found["half"].tolist() == [0, 0, 0, 126, 127, 127]
    assert found["channels"].tolist() == [-7, -7, -7, 7, 7, 7]


def test_scales_of_channels_rows_and_groups() -> None:
    torch.manual_seed(0)
    scales, zeros = torch.rand(6) + 0.1, torch.tensor([0, 3, -9, 1, 2, -100])

    def channels(axis: int, with_zeros: bool) -> Callable[..., Any]:
        def run(x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, ...]:
            held = QUANTIZED.quantize_per_channel(x.movedim(1, axis), scales, zeros, axis, -127, 127, torch.int8)
            given = zeros if with_zeros else None
            return held, QUANTIZED.dequantize_per_channel(held, scales, given, axis, -127, 127, torch.int8)

        return run

    def groups(size: int, count: int) -> Callable[..., Any]:
        scale, zero = torch.rand(3, count) + 0.1, torch.arange(3 * count).reshape(3, count) - 4

        def run(x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, ...]:
            held = QUANTIZED.quantize_per_channel_group(m, scale, zero, -8, 7, torch.int8, size)
            back = QUANTIZED.dequantize_per_channel_group(held, scale, zero, -8, 7, torch.int8, size, torch.float32)
            bare = QUANTIZED.dequantize_per_channel_group(held, scale, None, -8, 7, torch.int8, size, torch.float32)
            return held, back, bare

        return run

    functions = {
        "front": channels(0, True), "middle": channels(1, True), "last": channels(2, False),
        "groups": groups(4, 3), "wide group": groups(128, 1),
    }  # fmt: skip
    x, m = 20 * torch.randn(2, 6, 5), 3 * torch.randn(3, 12)
    check(functions, (x, m))
    scale, zero = torch.rand(2, 6, 1) + 0.1, torch.arange(-6, 6).reshape(2, 6, 1)

    def rows(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> tuple[torch.Tensor, ...]:
        held = QUANTIZED.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        return held, QUANTIZED.dequantize_per_token(held, scale, zero, -128, 127, torch.int8, torch.float32)

    check({"rows": rows}, (x, scale, zero))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [-30.0, 0.0, 30.0])
def test_parameters_chosen_from_the_tensor(dtype: torch.dtype, shift: float) -> None:
    torch.manual_seed(1)

    def quantized(x: torch.Tensor, chosen: tuple[torch.Tensor, torch.Tensor], to: torch.dtype) -> tuple[Any, ...]:
        info = torch.iinfo(to)
        return *chosen, QUANTIZED.quantize_per_tensor.tensor(x, *chosen, info.min, info.max, to)

    def whole(x: torch.Tensor) -> tuple[Any, ...]:
        return quantized(x, QUANTIZED.choose_qparams.tensor(x, 0, 255, 2**-12, torch.uint8), torch.uint8)

    def symmetric(x: torch.Tensor) -> tuple[Any, ...]:
        return quantized(x, QUANTIZED.choose_qparams_symmetric.tensor(x, -127, 127, 2**-12, torch.int8), torch.int8)

    def rows(x: torch.Tensor) -> tuple[Any, ...]:
        scale, zero = QUANTIZED.choose_qparams_per_token_asymmetric(x, torch.int8)
        return scale, zero, QUANTIZED.quantize_per_token(x, scale, zero, -128, 127, torch.int8)

    check({"whole": whole, "symmetric": symmetric, "rows": rows}, ((torch.randn(3, 4, 16) * 9 + shift).to(dtype),))


def test_symmetric_rows() -> None:
    # torch's shape function promises types of scale and zero point that its kernel does not keep
    def rows(x: torch.Tensor) -> torch.Tensor:
        scale, zero = QUANTIZED.choose_qparams_per_token(x, torch.int8)
        held = QUANTIZED.quantize_per_token(x, scale, zero, -127, 127, torch.int8)
        return QUANTIZED.dequantize_per_token(held, scale, zero, -127, 127, torch.int8, torch.float32)

    check({"rows": rows}, (torch.randn(3, 4, 16),))


@pytest.mark.parametrize("mapping", ["SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC"])
def test_affine_parameters_of_blocks(mapping: str) -> None:
    torch.manual_seed(2)
    kinds = {
        "all": (4, 8, 16), "rows": (1, 1, 16), "channels": (4, 1, 16), "groups": (1, 1, 4), "both": (2, 8, 4),
    }  # fmt: skip

    def of(blocks: tuple[int, ...], keepdim: bool) -> Callable[..., Any]:
        def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            scale, zero = torch.ops.torchao.choose_qparams_affine(
                x, mapping, blocks, torch.int8, -100, 101, 1e-6, torch.float32, torch.int32, keepdim
            )
            held = torch.ops.torchao.quantize_affine(x, blocks, scale, zero, torch.int8, -100, 101)
            return scale, zero, held, torch.ops.torchao.dequantize_affine(held, blocks, scale, zero, torch.int8)

        return run

    functions = {f"{name} {keep}": of(blocks, keep) for name, blocks in kinds.items() for keep in (False, True)}
    check(functions, (torch.randn(4, 8, 16) + 0.3,))


def test_float8_with_a_scale() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        held = torch.ops.torchao.quantize_affine_float8_non_decomposed(x, torch.full((1, 1), 0.02))
        rows = torch.ops.torchao.quantize_affine_float8_non_decomposed(x, x[:, :1].abs() + 0.1)
        back = torch.ops.torchao.dequantize_affine_float8_non_decomposed(rows, x[:, :1].abs() + 0.1)
        return torch.ops.torchao.dequantize_affine_float8_non_decomposed(held, torch.full((1, 1), 0.02)) + back

    check({"float8": run}, (20 * torch.randn(5, 7),))


SLOW = pytest.mark.slow
EXPORTS: Mapping[str, tuple[str, Callable[[], Any]]] = {
    "linear": ("linear", of_inductor),
    "linear, dynamic": ("linear", lambda: of_inductor(is_dynamic=True)),
    "linear, 7 bits": ("linear", lambda: of_inductor(reduce_range=True)),
    "conv": ("conv", of_inductor),
    "conv, dynamic": ("conv", lambda: of_inductor(is_dynamic=True)),
    "conv, 7 bits": ("conv", lambda: of_inductor(reduce_range=True)),
    "xnnpack linear": ("linear", of_xnnpack),
    "xnnpack linear, dynamic": ("linear", lambda: of_xnnpack(is_dynamic=True)),
    "xnnpack conv": ("conv", of_xnnpack),
    "xnnpack conv, one scale": ("conv", lambda: of_xnnpack(is_per_channel=False)),
}


# Each compiles two or three kernels and is exported twice: what differs least from the others waits for the slow tests.
RARER = ("linear, 7 bits", "conv, dynamic", "xnnpack linear", "xnnpack conv, one scale")


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) if name in RARER else name for name in EXPORTS])
def test_exported_models(name: str) -> None:
    """The values, natively, and every product on bytes."""
    module, x = pt2e(EXPORTS[name][0], EXPORTS[name][1]())
    program = runtime.compile(module, (x,))
    assert_quanta(program(x), module(x), name)
    products = [row for row in program.ledger() if row.op in ("aten.linear", "aten.conv2d")]
    kinds = {(row.in_dtype, row.acc_dtype) for row in products}
    assert kinds == {("int8" if name.startswith("xnnpack") else "uint8", "int32")}, program.explain()
    assert not [row.node for row in program.ledger() if row.unit == "host"]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_whole_transformer(dynamic: bool) -> None:
    module, inputs = bert.build("tiny", seq=16, batch=2)
    quantized = exported(module, inputs, of_inductor(is_dynamic=dynamic))
    program = runtime.compile(quantized, inputs)
    for found, expected in zip(program(*inputs), quantized(*inputs), strict=True):
        assert_quanta(found, expected, "bert")
    layers = [row for row in program.ledger() if row.op == "aten.linear"]
    assert {(row.in_dtype, row.acc_dtype) for row in layers} == {("uint8", "int32")}


def test_quantized_bytes_stay_bytes() -> None:
    """Import leaves quantize_linear and dequantize_linear, and weights as the bytes they are."""
    graph = load(*pt2e("conv", of_inductor())).graph
    names = [node.op for node in graph.nodes]
    assert (names.count("quantize_linear"), names.count("dequantize_linear")) == (3, 7)
    weights = [graph.constants[node.inputs[0].name] for node in graph.nodes if node.inputs[0].name in graph.constants]
    assert sum(w.dtype == "int8" and w.ndim > 1 for w in weights) == 3


CONFIGS: Mapping[str, Callable[[], Any]] = {
    "int8 weights": ao.Int8WeightOnlyConfig,
    "int8 groups": lambda: ao.Int8WeightOnlyConfig(granularity=PerGroup(32)),
    "int8 rows": ao.Int8DynamicActivationInt8WeightConfig,
    "int8 tensor": lambda: ao.Int8DynamicActivationInt8WeightConfig(granularity=PerTensor()),
    "int8 shifted": lambda: ao.Int8DynamicActivationInt8WeightConfig(
        granularity=PerRow(), act_mapping_type=ao.MappingType.ASYMMETRIC
    ),
    "int4 weights, int8 rows": lambda: ao.Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4, weight_granularity=PerGroup(32)
    ),
    "int3 weights": lambda: ao.IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=PerGroup(32)),
    "float8 weights": ao.Float8WeightOnlyConfig,
}


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=SLOW)])
@pytest.mark.parametrize("name", CONFIGS)
def test_tensor_subclasses(name: str, dtype: torch.dtype) -> None:
    module, x = model("linear", dtype)
    ao.quantize_(module, CONFIGS[name]())
    x = x.reshape(2, 2, 64)
    assert_quanta(call(load(module, (x,)), x), module(x), name)


@pytest.mark.parametrize("name", ["int8 rows", "int4 weights, int8 rows"])
def test_sizes_that_vary(name: str) -> None:
    module, x = model("linear")
    ao.quantize_(module, CONFIGS[name]())
    program = runtime.compile(module, (x.reshape(2, 2, 64),), dynamic_shapes=({0: "batch", 1: "seq"},))
    for shape in ((1, 3, 64), (4, 7, 64)):
        given = torch.randn(shape, generator=torch.Generator().manual_seed(6))
        assert_quanta(program(given), module(given), name)


def test_quantized_rows_times_quantized_weights_are_integer_products() -> None:
    module, x = model("linear")
    ao.quantize_(module, ao.Int8DynamicActivationInt8WeightConfig())
    program = runtime.compile(module, (x,))
    assert_quanta(program(x), module(x), "rows")
    products = [row for row in program.ledger() if row.op == "aten._int_mm"]
    assert [(row.acc_dtype, row.unit != "host") for row in products] == [("int32", True)] * 2


def test_fake_quantization() -> None:
    torch.manual_seed(4)
    scales, zeros = torch.rand(6) + 0.1, torch.tensor([0, 3, -8, 1, 2, 7], dtype=torch.int32)
    check(
        {
            "tensor": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, 3, 0, 127),
            "wide": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.001, 3, -30000, 30000),
            "given": lambda x: torch.fake_quantize_per_tensor_affine(x, scales[1], zeros[1], -8, 7),
            "channels": lambda x: torch.fake_quantize_per_channel_affine(x, scales, zeros, 1, -8, 7),
            "decomposed": lambda x: QUANTIZED.fake_quant_per_channel(x, scales, zeros, 1, -8, 7),
        },
        (2 * torch.randn(4, 6, 5),),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    codes = torch.randint(0, 16, (64, 128), dtype=torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    parameters = torch.stack([torch.rand(4, 64) / 8 + 0.1, torch.randn(4, 64) / 8], -1).to(dtype)
    eight, scales = torch.randint(-128, 128, (32, 128), dtype=torch.int8), (torch.rand(32) / 64).to(dtype)

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.packed = nn.Buffer(packed)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            four = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, 32, parameters)
            return four, torch.ops.aten._weight_int8pack_mm(x, eight, scales)

    x = torch.randn(5, 128).to(dtype)
    for found, expected in zip(call(load(Product(), (x,)), x), Product()(x), strict=True):
        assert_quanta(found, expected, str(dtype), 1e-5 if dtype == torch.float32 else 1e-2)


def refusal(function: Callable[..., Any], *tensors: torch.Tensor, **options: Any) -> str:
    with pytest.raises(UnsupportedOp) as caught:
        load(Each({"y": function}), tensors, **options)
    return str(caught.value)


def test_what_is_refused_says_why() -> None:
    x = torch.randn(4, 8)
    shifted = refusal(lambda x: QUANTIZED.quantize_per_tensor(x, 0.1, 300, 0, 255, torch.uint8), x)
    assert "zero point 300 of uint8 elements; expected 0..255" in shifted
    float8 = refusal(lambda x: QUANTIZED.quantize_per_tensor(x, 0.1, 0, -448, 448, torch.float8_e4m3fn), x)
    assert "stored as float8_e4m3fn; expected an integer type" in float8
    codes = torch.zeros(64, 16, dtype=torch.uint8)
    packed = refusal(
        lambda x, codes: torch.ops.aten._weight_int4pack_mm_for_cpu(x, codes, 32, torch.ones(1, 64, 2)),
        torch.randn(4, 32),
        codes,
    )
    assert "pack them beforehand" in packed
