"""runtime.compare: rows, roles, blame, faults of fused programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import runtime
from compiler.errors import ModelError, SansuanError
from models import mlp
from runtime.parity.candidates import Native
from runtime.parity.compare import Comparison, compare
from tests.runtime.parity_faults import planted
from tests.runtime.parity_models import MODELS, convolutions, model, node, quantized


def test_every_node_has_a_row_and_all_candidates_agree() -> None:
    made, draw = convolutions()
    names = ("native", "reference", "onnxruntime", "openvino", "fp64", "bf16")
    report = compare(made, draw(0), names)
    assert [row.node for row in report.rows] == [proto.name for proto in made.graph.node]
    assert all(set(row.own) == set(row.total) == set(names) for row in report.rows)
    assert report.agrees and report.first_divergence is None and report.blame == ""
    worst = {name: max(row.own[name].errors.relative for row in report.rows) for name in names}
    assert worst["fp64"] < 1e-14 < worst["native"] < 1e-5 < worst["bf16"] < 0.1
    assert "agree: native" in str(report)


@pytest.mark.slow
def test_forced_units_and_policies() -> None:
    module, inputs = mlp.build(batch=4)
    families = [f"unit:{family}" for family, (_, missing) in runtime.target().unit_families.items() if not missing]
    by_rule = runtime.Policy("bf16", (runtime.Rule("fp32", node="2/*"),))
    report = compare(module, inputs, (*families, "int8", by_rule))
    assert report.agrees, str(report)
    rows = {row.node: row.own for row in report.rows}
    assert all(rows["0/linear"][family].errors.relative < 1e-6 for family in families)
    bf16, int8 = (rows["0/linear"][name].errors.relative for name in ("policy bf16", "int8"))
    assert 1e-4 < bf16 < int8 < 0.1
    assert rows["2/linear_1"]["policy bf16"].errors.relative < 1e-6


def test_operands_of_an_isolated_node_are_the_references() -> None:
    """So an error is a node's own where it arises, and inherited behind that."""
    made, draw = convolutions()
    with planted("constant", "Conv.b0"):
        report = compare(made, draw(0), cache=False)
    own = {row.node: row.own["native"].agrees for row in report.rows}
    total = {row.node: row.total["native"].agrees for row in report.rows}
    assert [name for name, agrees in own.items() if not agrees] == ["Conv.b0"]
    names = list(own)
    assert all(total[name] for name in names[: names.index("Conv.b0")])
    assert not any(total[name] for name in names[names.index("Conv.b0") :][:4])
    assert "first divergence: Conv.b0 (Conv): native" in str(report)


def test_torch_models_are_compared_with_eager_torch() -> None:
    module, inputs = mlp.build(batch=2)
    report = runtime.compare(module, inputs, ("native", "torch"))
    assert report.agrees and len(report.rows) == 5
    assert all(set(row.own) == {"native", "torch"} for row in report.rows)
    with planted("constant", "2/linear_1"):
        report = compare(module, inputs, ("native", "torch"), cache=False)
    assert report.first_divergence is not None and report.first_divergence.node == "2/linear_1"
    assert report.blame == "native"


class Changing(torch.nn.Module):
    """Two results of one call, and a buffer that a run changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, places = torch.topk(x, 3)
        self.count += values.sum(0)
        return values * places + self.count


def test_comparing_changes_no_buffer() -> None:
    module = Changing().eval()
    report = compare(module, (torch.randn(4, 7, generator=torch.Generator().manual_seed(0)),), ("native", "torch"))
    assert report.agrees, str(report)
    assert torch.equal(module.count, torch.zeros(3))


class Unordered(torch.nn.Module):
    """What torch leaves open: the order of equal elements, and memory before it is written to."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, places = torch.sort(x // 3, descending=True)
        return values, places, x.new_empty(64).copy_(x[0])


def test_what_torch_leaves_open_is_no_divergence() -> None:
    x = torch.randint(0, 9, (4, 64), generator=torch.Generator().manual_seed(0))
    module = Unordered().eval()
    report = compare(module, (x,), ("native", "torch"))
    assert report.agrees, str(report)
    assert "torch" in next(row for row in report.rows if row.op == "aten.sort").own


@pytest.mark.parametrize(("reference", "candidate"), [("onnxruntime", "native"), ("native", "onnxruntime")])
def test_blame_is_on_whoever_is_farther_from_fp64(reference: str, candidate: str) -> None:
    made, draw = quantized()
    with planted("constant", "Add.h1"):
        report = compare(made, draw(0), candidate, reference, cache=False)
    assert report.first_divergence is not None and report.first_divergence.node == "Add.h1"
    assert report.blame == "native"
    assert compare(made, draw(0), candidate, reference).agrees


def test_a_given_tolerance_bounds_own_errors() -> None:
    made, draw = convolutions()
    strict = compare(made, draw(0), tolerance=1e-9)
    assert strict.first_divergence is not None and strict.first_divergence.node == "Conv.a0"
    with planted("bf16", "Conv.a0"):
        assert compare(made, draw(0), tolerance=0.01, cache=False).agrees


def test_a_fault_that_only_a_fused_program_has() -> None:
    made, draw = convolutions()
    with planted("constant", "Conv.a0", "Relu.a"):
        report = compare(made, draw(0), cache=False)
    assert report.first_divergence is None and not report.agrees
    (found,) = report.fused_only
    assert (found.candidate, found.output, found.node) == ("native", "y", "Conv.a0")
    assert {"Conv.a0", "Relu.a"} <= set(found.together)
    assert report.blame == "native" and "only when fused: native" in str(report)


def test_errors_that_only_add_up_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made, draw = convolutions()
    total = Native.total

    def drifting(self: Native) -> dict[str, Any]:
        return {name: array * np.float32(1.001) if array.ndim == 2 else array for name, array in total(self).items()}

    monkeypatch.setattr(Native, "total", drifting)
    report = compare(made, draw(0))
    assert report.first_divergence is None and not report.agrees
    assert report.first_inherited is not None and report.first_inherited.node == "Flatten.flat"
    assert "errors add up beyond bounds at Flatten.flat" in str(report)


def test_other_inputs_of_the_same_shapes() -> None:
    made, draw = MODELS["attention"]()
    comparison = Comparison(made, draw(0), ("native", "onnxruntime"))
    first, second = comparison.report(), comparison.report(draw(1))
    assert first.agrees and second.agrees
    assert first.rows[4].own["native"].errors.norm != second.rows[4].own["native"].errors.norm
    with pytest.raises(SansuanError, match="another Comparison"):
        comparison.report({"x": draw(0)["x"][:1]})


def test_sizes_that_data_decides() -> None:
    nodes = [
        node("Abs", "x", "a"), node("Greater", "a half", "m"), node("NonZero", "m", "places"),
        node("Transpose", "places", "t"), node("GatherND", "a t", "some"), node("Exp", "some", "y"),
    ]  # fmt: skip
    made = model(nodes, {"x": ["n", 6]}, {"y": ["k"]}, {"half": np.float32(0.5)})
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    report = compare(made, {"x": x}, ("native", "onnxruntime"))
    assert report.agrees and all(len(row.own) == 2 for row in report.rows)
    with planted("constant", "Exp.y"):
        report = compare(made, {"x": x}, ("native", "onnxruntime"), cache=False)
    assert report.first_divergence is not None and report.first_divergence.node == "Exp.y"


def test_infinities_of_the_models_own_type_are_right() -> None:
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("Mul", "h h", "square"),
        node("Cast", "square", "y", to=1),
    ]
    made = model(nodes, {"x": [3]}, {"y": [3]}, {})
    assert compare(made, [np.array([1, 200, 3000], np.float32)], ("native", "onnxruntime")).agrees


@pytest.mark.parametrize(
    ("candidates", "reference", "expected"),
    [
        (("abacus",), "fp64", "'abacus': no such candidate; this model can be compared on native, .*onnxruntime"),
        (("torch",), "fp64", "runs torch models"),
        (("unit:abacus",), "fp64", "units are of .*generic"),
        (("native",), "abacus", "no such candidate"),
        ((), "fp64", "no candidates"),
    ],
)
def test_unknown_candidates_list_what_there_is(candidates: tuple[str, ...], reference: str, expected: str) -> None:
    made, draw = quantized()
    with pytest.raises(SansuanError, match=expected):
        compare(made, draw(0), candidates, reference)


def test_wrong_models_and_inputs_are_refused() -> None:
    module, inputs = mlp.build()
    with pytest.raises(SansuanError, match="runs ONNX models"):
        compare(module, inputs, "onnxruntime")
    with pytest.raises(ModelError, match="expected a path"):
        compare(3, {})
    with pytest.raises(ModelError, match="missing"):
        compare(quantized()[0], {})


def test_a_model_a_peer_does_not_take() -> None:
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Odd", ["x"], ["y"], domain="made.up")],
            "odd",
            [helper.make_tensor_value_info("x", 1, [2])],
            [helper.make_tensor_value_info("y", 1, [2])],
        ),
        functions=[
            helper.make_function(
                "made.up", "Odd", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], [helper.make_opsetid("", 20)]
            )
        ],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("made.up", 1)],
        ir_version=9,
    )
    assert compare(made, [np.ones(2, np.float32)], ("native", "onnxruntime")).agrees
