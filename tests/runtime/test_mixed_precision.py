"""Models whose products run in bfloat16 or 8 bits: the same bits on every unit, for any threads and batch; what runs in
what is told."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runtime
from backends.native import target as targets
from backends.native import units
from backends.reference.emulator import EmulatedExecutable
from compiler.dtypes import bfloat16, float32
from compiler.pipeline import lower_graph
from compiler.policy import Calibrated, Policy, Rule, resolve
from models import bert, resnet
from runtime.importing import load

PRECISIONS = ("bf16", "int8", "static")
MULTIPLIED = {"bf16": "bfloat16", "int8": "int8", "static": "int8"}
SIZES = {"bert": {0: "batch", 1: "seq"}, "resnet": {0: "batch"}}


# What needs no ranges is tested on every change, the rest behind the slow marker.
MARKED = [p if p == "int8" else pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS]


def best_family(target: str, precision: str) -> str:
    """The family of units that multiplies a precision on a target."""
    families = targets.named(target).unit_families.items()
    return next(isa for isa, (types, lacks) in families if MULTIPLIED[precision] in types and not lacks)


def in_order(target: str, precision: str) -> bool:
    """Whether a target sums products in the reference's order: of floats, units for many rows have one of their own."""
    unit, _ = units.select(targets.named(target), bfloat16, bfloat16, float32, tiles=True)
    return precision != "bf16" or unit.in_order


def forced(precision: str) -> list[str]:
    """Targets this machine runs, one for each family that multiplies a precision in order on some of them."""
    here = [name for name in targets.names() if name != "host" and targets.named(name).runs_here]
    ordered = [name for name in here if in_order(name, precision)]
    return list({best_family(name, precision): name for name in reversed(ordered)}.values())


def best(precision: str) -> str:
    """The target with this machine's best units that multiply a precision in order."""
    return next(name for name in targets.names() if in_order(name, precision))


@lru_cache
def model(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A BERT layer pair, and a small ResNet with its residual blocks."""
    if name == "bert":
        return bert.build("small", batch=3, seq=9)
    return resnet.build((1, 1), width=16, classes=10, size=32, batch=3)


@lru_cache
def dynamic(name: str) -> Any:
    sizes = {size: torch.export.Dim(size) for size in SIZES[name].values()}
    return tuple({axis: sizes[size] for axis, size in SIZES[name].items()} for _ in model(name)[1])


@lru_cache
def policy(name: str, precision: str) -> Policy:
    if precision == "static":
        return runtime.calibrate(model(name)[0], [model(name)[1]], dynamic_shapes=dynamic(name))
    found = resolve(precision)
    assert found is not None
    return found


@lru_cache
def program(name: str, precision: str, target: str = "host", threads: int = 1) -> runtime.Program:
    module, inputs = model(name)
    return runtime.compile(
        module, inputs, precision=policy(name, precision), dynamic_shapes=dynamic(name), target=target, threads=threads
    )


def outputs(compiled: runtime.Program, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    results = compiled(*inputs)
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


@pytest.mark.parametrize("precision", MARKED)
@pytest.mark.parametrize("name", SIZES)
def test_the_reference_gives_the_same_bits(name: str, precision: str) -> None:
    module, inputs = model(name)
    graph = load(module, inputs, dynamic(name)).graph.with_policy(policy(name, precision))
    expected = EmulatedExecutable(lower_graph(graph)).run([x.numpy() for x in inputs])
    for found, wanted in zip(outputs(program(name, precision, best(precision)), inputs), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        pytest.param(p, target, marks=() if p == "int8" else pytest.mark.slow)
        for p in PRECISIONS
        for target in forced(p)
    ],
)
@pytest.mark.parametrize("name", ["bert", pytest.param("resnet", marks=pytest.mark.slow)])
def test_every_unit_gives_the_same_bits(name: str, precision: str, target: str) -> None:
    inputs = model(name)[1]
    program_here = program(name, precision, target)
    expected = outputs(program(name, precision, best(precision)), inputs)
    for found, wanted in zip(outputs(program_here, inputs), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    family = best_family(target, precision)
    assert any(
        row.unit.startswith(family) and row.in_dtype in ("bfloat16", "uint8", "int8") for row in program_here.ledger()
    )


@pytest.mark.parametrize("precision", MARKED)
@pytest.mark.parametrize("name", SIZES)
def test_threads_and_batch_change_nothing(name: str, precision: str) -> None:
    inputs = model(name)[1]
    whole = outputs(program(name, precision), inputs)
    for found, wanted in zip(outputs(program(name, precision, threads=2), inputs), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)
    for row in range(3):
        one = outputs(program(name, precision), tuple(x[row : row + 1] for x in inputs))
        for found, wanted in zip(one, whole, strict=True):
            np.testing.assert_array_equal(found, wanted[row : row + 1])


@pytest.mark.parametrize("precision", MARKED)
@pytest.mark.parametrize("name", SIZES)
def test_errors_are_of_the_size_of_the_type(name: str, precision: str) -> None:
    bound = 0.02 if precision == "bf16" else 0.05
    module, inputs = model(name)
    with torch.inference_mode():
        truth = module(*inputs)
    truth = truth[0] if isinstance(truth, tuple) else truth
    found = outputs(program(name, precision), inputs)[0]
    error = np.linalg.norm(found - truth.numpy()) / np.linalg.norm(truth.numpy())
    assert 1e-5 < error < bound, error  # and it is not float32 in disguise


@pytest.mark.parametrize("precision", MARKED)
@pytest.mark.parametrize("name", SIZES)
def test_the_ledger_tells_what_runs_in_what(name: str, precision: str) -> None:
    dtype = {"bf16": "bfloat16", "int8": "int8", "static": "uint8"}[precision]
    products = [
        row for row in program(name, precision).ledger()
        if row.op in ("aten.linear", "aten.conv2d", "aten.convolution", "aten.scaled_dot_product_attention")
    ]  # fmt: skip
    assert len(products) > 6
    for row in products:
        narrow = any(word in row.kernel for word in (f"gemm_{dtype}", "gemm_uint8_int8", "gemm_int8_int8"))
        assert narrow or "not " in row.reason, row
        assert row.op == "aten.scaled_dot_product_attention" or narrow or "gain less" in row.reason, row
    assert any(f"gemm_{dtype}" in row.kernel or "gemm_uint8" in row.kernel for row in products)


def test_a_policy_chooses_by_name_op_and_error() -> None:
    module, inputs = model("bert")
    chosen = Policy(
        "int8",
        rules=(
            Rule("fp32", node="*layer.0*query*"),
            Rule("bf16", node="*layer.1*", op="*linear*", reason="layer 1 is to be precise"),
            Rule("bf16", above_error=0.5),
        ),
        errors={"encoder.layer.0.output.dense/linear_5": 0.9},
    )
    rows = {row.node: row for row in runtime.compile(module, inputs, precision=chosen).ledger() if "linear" in row.op}
    of_layer_0 = {node.split("layer.0.")[1]: row for node, row in rows.items() if "layer.0." in node}
    query = next(row for node, row in of_layer_0.items() if "query" in node)
    assert query.in_dtype == "float32" and "node *layer.0*query*" in query.reason
    dense = next(row for node, row in of_layer_0.items() if node.startswith("output.dense"))
    assert (dense.in_dtype == "bfloat16") == ("linear_5" in dense.node)
    for node, row in rows.items():
        if "layer.1." in node:
            assert row.in_dtype == "bfloat16" and "layer 1 is to be precise" in row.reason


def test_what_cannot_run_in_eight_bits_runs_in_what_the_policy_says_else() -> None:
    class Scores(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b

    inputs = torch.randn(4, 32), torch.randn(32, 8)
    (row,) = runtime.compile(Scores(), inputs, precision=Policy("int8", otherwise="bf16")).ledger()
    assert row.in_dtype == "bfloat16" and row.reason.startswith("not int8: both operands are computed")
    (row,) = runtime.compile(Scores(), inputs, precision="int8").ledger()
    assert row.in_dtype == "float32" and row.reason.startswith("not int8")


@pytest.mark.parametrize(("precision", "bound"), [("int8_weights", 0.01), ("int4_weights", 0.12)])
def test_weights_alone_as_codes(precision: str, bound: float) -> None:
    module, inputs = model("bert")
    compiled = runtime.compile(module, inputs, precision=precision)
    with torch.inference_mode():
        truth = module(*inputs)[0].numpy()
    error = np.linalg.norm(outputs(compiled, inputs)[0] - truth) / np.linalg.norm(truth)
    assert 1e-5 < error < bound
    graph = load(module, inputs).graph.with_policy(resolve(precision))
    expected = EmulatedExecutable(lower_graph(graph)).run([x.numpy() for x in inputs])
    np.testing.assert_array_equal(outputs(compiled, inputs)[0], expected[0])
    statistics, plain = compiled.statistics(), runtime.compile(module, inputs).statistics()
    assert statistics is not None and plain is not None and statistics.weight_bytes < plain.weight_bytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("precision", "expected"), [("bf16", "bfloat16"), ("int8", "uint8"), ("int4_weights", None)])
def test_models_of_16_bits_under_a_policy(dtype: torch.dtype, precision: str, expected: str | None) -> None:
    layer, x = torch.nn.Linear(64, 256).to(dtype), torch.randn(5, 64).to(dtype)
    compiled = runtime.compile(layer, (x,), precision=precision)
    found = compiled(x)
    row = next(row for row in compiled.ledger() if "linear" in row.op)
    assert row.in_dtype == (expected or str(dtype).removeprefix("torch.")) and row.acc_dtype in ("float32", "int32")
    with torch.inference_mode():
        truth = layer.float()(x.float())
    assert found.dtype == dtype and (found.float() - truth).norm() / truth.norm() < 0.12


def test_float64_stays_float64_and_says_so() -> None:
    layer = torch.nn.Linear(32, 256).double()
    (row, *_) = [
        r for r in runtime.compile(layer, (torch.randn(4, 32).double(),), precision="bf16").ledger() if r.kernel
    ]
    assert row.in_dtype == "float64" and "float64 stays float64" in row.reason


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4_weights"])
def test_new_weights_are_quantized_anew(precision: str) -> None:
    layer, x = torch.nn.Linear(64, 256), torch.randn(5, 64)
    compiled = runtime.compile(layer, (x,), precision=precision)
    before = compiled(x).numpy()
    with torch.no_grad():
        layer.weight.mul_(-3.0).add_(0.01)
    compiled.refresh()
    fresh = runtime.compile(layer, (x,), precision=precision)
    np.testing.assert_array_equal(compiled(x).numpy(), fresh(x).numpy())
    assert not np.array_equal(compiled(x).numpy(), before)


def test_bodies_of_control_flow_follow_the_policy() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(128, 128)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: self.layer(y) + 1, lambda y: self.layer(y) - 1, (x,))

    x = torch.rand(4, 128)
    compiled = runtime.compile(Twice(), (x,), precision="int8")
    compiled(x)
    assert any("gemm_uint8_int8" in row.kernel for row in compiled.ledger())


def test_a_row_that_is_not_finite_shows_in_its_own_result_only() -> None:
    layer = torch.nn.Linear(32, 256)
    compiled = runtime.compile(layer, (torch.randn(4, 32),), precision="int8")
    x = torch.randn(4, 32)
    clean = compiled(x).numpy()
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    found = compiled(x).numpy()
    assert np.isnan(found[1]).all() and not np.isfinite(found[2]).any()
    np.testing.assert_array_equal(found[[0, 3]], clean[[0, 3]])


def test_rows_of_zeros_and_of_one_sign() -> None:
    layer = torch.nn.Linear(32, 256)
    compiled = runtime.compile(layer, (torch.randn(3, 32),), precision="int8")
    x = torch.stack([torch.zeros(32), torch.rand(32), -torch.rand(32)])
    with torch.inference_mode():
        truth = layer(x).numpy()
    found = compiled(x).numpy()
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_allclose(found, truth, atol=0.02)


@pytest.mark.parametrize("ends", [(1.0, -1.0), (0.0, float("inf")), (None, 1.0), (float("nan"), 1.0)])
def test_ranges_are_finite_and_in_order(ends: tuple[Any, Any]) -> None:
    with pytest.raises(runtime.SansuanError, match="expected two finite ends"):
        Calibrated(*ends)


def test_unknown_words_are_refused() -> None:
    for make in (lambda: Policy("int3"), lambda: Rule("bf61"), lambda: Policy(otherwise="fp8")):
        with pytest.raises(runtime.SansuanError, match="expected one of fp32, bf16x3, bf16, int8"):
            make()


def test_without_a_unit_that_splits_products_stay_float32(tmp_path: Path) -> None:
    """Named by a rule in a file; the same bits as without a policy, and the reason in the ledger."""
    layers = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 40))
    x = torch.randn(20, 64)
    Policy("fp32", rules=(Rule("bf16x3", node="2*"),)).save(tmp_path / "policy.npz")
    compiled = runtime.compile(layers, (x,), precision=Policy.load(tmp_path / "policy.npz"), target="generic")
    rows = {row.node.partition("/")[0]: row for row in compiled.ledger()}
    assert "bf16x3" not in rows["0"].reason and rows["2"].in_dtype == "float32"
    assert "the policy's rule for node 2*" in rows["2"].reason and "bf16x3 needs" in rows["2"].reason
    assert torch.equal(compiled(x), runtime.compile(layers, (x,), target="generic")(x))
