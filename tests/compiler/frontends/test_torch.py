"""The torch front end: inputs, outputs, weights, sizes, errors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from compiler.errors import ModelError, ShapeError, UnsupportedOp
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import assert_close, call


class Function(nn.Module):
    """A module that computes a given function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def shapes(imported: Any) -> list[str]:
    return [str(value.type) for value in imported.graph.inputs]


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("offset", torch.ones(11))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.shift = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids)) * self.scale + self.offset + self.shift


def test_weights_share_the_modules_memory_and_tied_ones_are_one_constant() -> None:
    model = Tied()
    imported = load(model, (torch.arange(5),))
    paths = list(imported.parameters.values())
    assert sorted(paths) == ["embedding.weight", "offset", "scale", "shift"]
    for name, path in imported.parameters.items():
        held = model.get_parameter(path) if path != "offset" else model.offset
        assert imported.graph.constants[name].__array_interface__["data"][0] == held.data_ptr()


def test_weights_follows_the_module() -> None:
    model = Tied()
    imported = load(model, (torch.arange(5),))
    with torch.no_grad():
        model.scale.add_(1)
        model.embedding.weight = nn.Parameter(torch.full((11, 4), 3.0))
    now = {imported.parameters[name]: array for name, array in imported.weights().items()}
    assert now["scale"] == 3
    assert (now["embedding.weight"] == 3).all()


def test_bfloat16_weights_are_ml_dtypes_views() -> None:
    model = nn.Linear(3, 2).bfloat16()
    imported = load(model, (torch.ones(4, 3).bfloat16(),))
    array = next(a for a in imported.graph.constants.values() if a.shape == (2, 3))
    assert array.dtype == ml_dtypes.bfloat16
    assert array.__array_interface__["data"][0] == model.weight.data_ptr()
    assert_close(call(imported, torch.ones(4, 3).bfloat16()), model(torch.ones(4, 3).bfloat16()), "linear")


def test_imported_nodes_are_named_by_module_path() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    graph = load(model, (torch.ones(2, 3),)).graph
    assert [(node.name, node.op) for node in graph.imported] == [
        ("0/linear", "aten.linear"),
        ("1/relu", "aten.relu"),
        ("2.0/linear_1", "aten.linear"),
    ]
    assert {node.place for node in graph.nodes} == {node.name for node in graph.imported}


def test_calls_without_nodes_have_a_note() -> None:
    graph = load(Function(lambda x: x.clone() + 1), (torch.ones(2),)).graph
    assert [node.name for node in graph.imported if node.name in graph.notes] == ["clone"]


def test_dims_are_named_as_in_dynamic_shapes() -> None:
    x, y = torch.ones(3, 4), torch.ones(3, 4)
    batch = Dim("batch")
    assert shapes(load(nn.Bilinear(4, 4, 2), (x, y))) == ["float32[3, 4]"] * 2
    named = load(nn.Bilinear(4, 4, 2), (x, y), ({0: batch}, {0: batch}))
    assert shapes(named) == ["float32[batch, 4]"] * 2
    as_words = load(nn.Bilinear(4, 4, 2), (x, y), {"input1": {0: "rows"}, "input2": {0: "rows"}})
    assert shapes(as_words) == ["float32[rows, 4]"] * 2


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_an_example_of_any_size_leaves_a_dim_dynamic(size: int) -> None:
    model = nn.Linear(4, 2)
    imported = load(model, (torch.ones(size, 4),), ({0: "batch"},))
    assert shapes(imported) == ["float32[batch, 4]"]
    for batch in (1, 5):
        x = torch.randn(batch, 4)
        assert_close(call(imported, x), model(x), f"batch {batch}")


def test_a_dim_may_be_an_expression_of_another() -> None:
    half = Dim("half")
    imported = load(Function(lambda x, y: x.sum(0) + y.sum(0)), (torch.ones(3, 2), torch.ones(6, 2)),
                    {"args": ({0: half}, {0: 2 * half})})  # fmt: skip
    assert shapes(imported) == ["float32[half, 2]", "float32[2*half, 2]"]


def test_sizes_are_computed_without_nodes() -> None:
    def pairs(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0] * x.shape[1] // 2, -1, 2)[1:]

    imported = load(Function(pairs), (torch.ones(4, 6),), {"args": ({0: "n"},)})
    assert call(imported, torch.ones(6, 6)).shape == (17, 1, 2)
    assert {node.op for node in imported.graph.nodes} <= {"reshape", "slice", "sizes"}


def test_a_dim_the_module_fixes_is_refused() -> None:
    with pytest.raises(ShapeError, match="specialized it to be a constant"):
        load(nn.Bilinear(4, 4, 2), (torch.ones(3, 4), torch.ones(3, 4)), ({0: "batch"}, None))


def test_an_unknown_name_in_dynamic_shapes_is_refused() -> None:
    with pytest.raises(ModelError, match=r"names image; expected names of inputs: input"):
        load(nn.Linear(4, 2), (torch.ones(3, 4),), {"image": {0: "batch"}})


def test_a_dim_gets_the_range_the_module_needs() -> None:
    table = torch.randn(16, 3)
    imported = load(Function(lambda x: x + table[: x.shape[0]]), (torch.ones(5, 3),), {"args": ({0: "seq"},)})
    assert_close(call(imported, torch.ones(9, 3)), 1 + table[:9], "sum")


@dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")


class Structured(nn.Module):
    """Nested inputs, keywords, constants; every kind of output."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: torch.Tensor, items: Any, *, scale: torch.Tensor, double: bool = False) -> dict[str, Any]:
        y = x * scale * (2 if double else 1)
        return {
            "pair": Pair(y, items[0]["a"] - 1),
            "same": x,
            "twice": (y, y),
            "table": self.table,
            "rows": x.shape[0],
            "nothing": None,
            "number": 3.5,
        }


def test_structure_of_inputs_and_outputs() -> None:
    model = Structured()
    x, items, scale = torch.randn(4, 3), [{"a": torch.randn(2)}], torch.tensor(3.0)
    options = {"scale": scale, "double": True}
    imported = load(model, ((x, items), options), {"x": {0: "rows"}})
    assert not imported.simple_inputs
    x = torch.randn(7, 3)
    found = call(imported, x, items, double=True, scale=scale)
    expected = model(x, items, **options)
    assert_close(found["pair"].first, expected["pair"].first, "first")
    assert_close(found["pair"].second, expected["pair"].second, "second")
    assert_close(found["twice"][1], expected["twice"][1], "twice")
    assert torch.equal(found["same"], x) and torch.equal(found["table"], model.table)
    assert (found["rows"], found["nothing"], found["number"]) == (7, None, 3.5)
    assert imported.graph.output_names[:3] == ("pair.first", "pair.second", "same")


def test_keywords_and_positions_are_interchangeable() -> None:
    model = nn.Bilinear(4, 4, 2)
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    for example in ((x, y), {"input1": x, "input2": y}, ((x,), {"input2": y})):
        imported = load(model, example)
        for found in (call(imported, x, y), call(imported, x, input2=y), call(imported, input2=y, input1=x)):
            assert_close(found, model(x, y), "result")


def test_other_structure_or_constants_are_refused() -> None:
    options = {"scale": torch.ones(()), "double": True}
    imported = load(Structured(), ((torch.ones(2, 3), [{"a": torch.ones(2)}]), options))
    with pytest.raises(ModelError, match="nested as"):
        imported.flatten((torch.ones(2, 3), [{"b": torch.ones(2)}]), options)
    with pytest.raises(ModelError, match=r"False; expected True"):
        imported.flatten((torch.ones(2, 3), [{"a": torch.ones(2)}]), {**options, "double": False})


@pytest.mark.parametrize(
    ("function", "simple", "kind"),
    [(add, True, "tensor"), (lambda x, y: (x, y), True, "tuple"), (lambda x, y: [x, y], True, "tree")],
)
def test_the_simple_cases_are_recognised(function: Any, simple: bool, kind: str) -> None:
    imported = load(Function(function), (torch.ones(2), torch.ones(2)))
    assert (imported.simple_inputs, imported.result_kind) == (simple, kind)


class Counter(nn.Module):
    """Counts its calls in a buffer and doubles its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x.mul_(2)
        return x + self.calls


def test_changed_buffers_and_inputs_are_written_back() -> None:
    model, x = Counter(), torch.ones(3)
    imported = load(model, (x,))
    assert imported.state == ("calls",)
    assert call(imported, x).tolist() == [3, 3, 3]
    assert call(imported, x).tolist() == [6, 6, 6]
    assert model.calls == 2 and x.tolist() == [4, 4, 4]


def test_changed_parameters_are_written_back() -> None:
    class Halving(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.weight.mul_(0.5)
            return super().forward(x)

    model, x = Halving(3, 2), torch.randn(4, 3)
    imported, weight = load(model, (x,)), model.weight.detach().clone()
    assert imported.state == ("weight",)
    assert_close(call(imported, x), nn.functional.linear(x, weight / 2, model.bias), "halved")
    assert torch.equal(model.weight, weight / 2)


class SharedHeads(nn.Module):
    """Attention whose heads of keys serve two heads of queries, after joining keys to those before."""

    def forward(self, before: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        keys = torch.cat([before, new], 2)
        batch, heads, count, size = keys.shape
        keys = keys[:, :, None].expand(batch, heads, 2, count, size).reshape(batch, 2 * heads, count, size)
        return nn.functional.scaled_dot_product_attention(new.repeat(1, 2, 1, 1), keys, keys)


class DownAndUp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(nn.functional.max_pool2d(x, 4), size=x.shape[-2:])


def test_guards_that_torch_cannot_prove_of_every_size_are_deferred() -> None:
    before, new = torch.randn(2, 2, 7, 8), torch.randn(2, 2, 1, 8)
    imported = load(SharedHeads(), (before, new), ({2: "past"}, None))
    for held in (before, torch.randn(2, 2, 3, 8)):
        assert_close(call(imported, held, new), SharedHeads()(held, new), "shared heads")
    x = torch.randn(1, 1, 9, 12)
    imported = load(DownAndUp(), (x,), ({2: "rows", 3: "columns"},))
    for sized in (x, torch.randn(1, 1, 20, 5)):
        assert_close(call(imported, sized), DownAndUp()(sized), "pooled")


def test_adaptive_pools_to_one_part_take_any_size() -> None:
    x = torch.randn(2, 3, 7)
    imported = load(nn.AdaptiveMaxPool1d(1), (x,), dynamic_shapes=({0: "batch", 2: "points"},))
    for sized in (x, torch.randn(4, 3, 1)):
        assert_close(call(imported, sized), sized.amax(2, keepdim=True), "largest")


def test_an_exported_program_loads_also_from_a_file(tmp_path: Any) -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    assert shapes(load(program)) == ["float32[batch, 3]"]
    for one in (program, torch.export.load(tmp_path / "model.pt2")):
        assert_close(call(load(one), x[:3]), model(x[:3]), "linear")


def test_every_unsupported_call_is_listed_with_its_module() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x) + torch.linalg.eigvalsh(x)

    with pytest.raises(UnsupportedOp) as caught:
        load(nn.Sequential(nn.ReLU(), Inner()), (torch.ones(3, 3),))
    text = str(caught.value)
    assert "1/_linalg_svd: aten._linalg_svd.default" in text and "1/_linalg_eigh: aten._linalg_eigh.default" in text


def test_loading_warns_of_nothing_a_user_could_change() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(nn.CosineSimilarity(), (torch.ones(2, 3), torch.ones(2, 3)))  # a call that torch decomposes


def test_refusals_name_the_source_line() -> None:
    with pytest.raises(UnsupportedOp, match=r"test_torch.py:\d+: return self.function"):
        load(Function(torch.linalg.svdvals), (torch.ones(3, 3),))


def test_ranges_of_dims() -> None:
    def ranges(function: Any, dim: Any) -> Any:
        return load(Function(function), (torch.ones(5, 3),), {"args": ({0: dim},)}).ranges

    table = torch.randn(16, 3)
    assert ranges(lambda x: x + 1, "n") == {}
    assert ranges(lambda x: x + 1, Dim("n", min=4, max=9)) == {"n": (4, 9)}
    assert ranges(lambda x: x + 1, Dim("n", min=2)) == {"n": (2, None)}
    assert ranges(lambda x: x + table[: x.shape[0]], "n") == {"n": (0, 16)}


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda x: x.numpy(), "call the module with these example_inputs first"),
        (lambda x: x[: int(x.sum())] if x.sum() > 3 else x, "depends on a tensor's contents"),
        (lambda x: torch.cond(x.sum() > 0, lambda x: x[:1], lambda x: x.float().sum(), (x,)), "expected same dim"),
        (lambda x: x @ torch.ones(9, 9), "call the module with these example_inputs first"),
    ],
)
def test_failures_of_export_say_what_to_do(function: Any, advice: str) -> None:
    with pytest.raises(ModelError, match=advice):
        load(Function(function), (torch.ones(3),))


def test_control_flow_on_contents_is_refused() -> None:
    with pytest.raises(ModelError, match="depends on a tensor's contents"):
        load(Function(lambda x: x if x.sum() > 0 else -x), (torch.ones(3),))


def test_missing_examples_are_refused() -> None:
    with pytest.raises(ModelError, match="example_inputs"):
        load(nn.Linear(2, 2))


def test_arrays_are_views_of_the_inputs() -> None:
    from compiler.frontends.torch_tensors import array_of

    x = torch.randn(4, 6)[:, ::2].t()
    assert np.shares_memory(array_of(x, "x"), x.numpy())
    with pytest.raises(ModelError, match="to_dense"):
        array_of(torch.eye(3).to_sparse(), "x")
