"""Recurrent layers of torch: stacks, projections, cells, any number of steps; what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from compiler.errors import SansuanError, UnsupportedOp
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import assert_close, call


def test_recurrent_layers_of_any_length() -> None:
    model = nn.GRU(5, 7, num_layers=2, batch_first=True).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imported = load(model, (torch.randn(3, 4, 5, dtype=torch.float64),), ({0: "rows", 1: "steps"},))
    for shape in ((1, 9, 5), (4, 1, 5)):
        x = torch.randn(shape, dtype=torch.float64)
        for found, expected in zip(call(imported, x), model(x), strict=True):
            assert_close(found, expected, str(shape))


def test_projected_lstm() -> None:
    model = nn.LSTM(5, 7, proj_size=3, num_layers=2, bidirectional=True).double().eval()
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    flat, wanted = (torch.utils._pytree.tree_leaves(value) for value in (call(load(model, (x,)), x), model(x)))
    for i, (one, other) in enumerate(zip(flat, wanted, strict=True)):
        assert_close(one, other, f"output {i}")


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(kind: type[nn.Module]) -> None:
    model = kind(5, 7).double().eval()
    x = torch.randn(4, 5, dtype=torch.float64)
    flat, wanted = (torch.utils._pytree.tree_leaves(value) for value in (call(load(model, (x,)), x), model(x)))
    for one, other in zip(flat, wanted, strict=True):
        assert_close(one, other, kind.__name__)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(5, 7)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.layer(nn.utils.rnn.pack_padded_sequence(x, lengths))[0].data


def test_packed_sequences_are_refused() -> None:
    with pytest.raises(SansuanError, match="PackedSequence"):
        load(Packed().eval(), (torch.randn(3, 2, 5), torch.tensor([3, 1])))


def test_training_mode_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match="eval mode"):
        load(nn.GRU(5, 7).train(), (torch.randn(3, 2, 5),))


def test_torch_has_its_own_kernels_back() -> None:
    before = dict(torch.ops.aten.lstm.input.py_kernels)
    load(nn.LSTM(5, 7).eval(), (torch.randn(3, 2, 5),), ({0: "steps"},))
    with pytest.raises(SansuanError):
        load(Packed().eval(), (torch.randn(3, 2, 5), torch.tensor([3, 1])))
    assert torch.ops.aten.lstm.input.py_kernels == before


def test_a_cell_beside_a_layer_leaves_the_layers_length_open() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.cell = nn.LSTM(5, 7), nn.LSTMCell(5, 7)
            self.again, self.plain = nn.GRUCell(7, 3), nn.RNNCell(3, 4, bias=False, nonlinearity="relu")

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            _, (hidden, state) = self.layer(x)
            hidden, state = self.cell(x[0], (hidden[0], state[0]))
            return state, self.plain(self.again(hidden))

    model, x = Both().double().eval(), torch.randn(3, 2, 5, dtype=torch.float64)
    imported = load(model, (x,), ({0: "steps"},))
    for sized in (x, torch.randn(8, 2, 5, dtype=torch.float64)):
        for found, expected in zip(call(imported, sized), model(sized), strict=True):
            assert_close(found, expected, "cell")
