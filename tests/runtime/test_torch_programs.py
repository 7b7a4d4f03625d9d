"""Programs of torch modules: sizes a Dim allows, buffers the module changes, inputs by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import runtime
from compiler.errors import ModelError, ShapeError


class Running(nn.Module):
    """Adds up what it has seen in a buffer, and works on its second input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.total += x.sum(0)
        y.mul_(2)
        return x + self.total


def test_dims_are_held_to_their_range() -> None:
    x = torch.ones(5, 3)
    program = runtime.compile(nn.Linear(3, 2), (x,), dynamic_shapes=({0: Dim("batch", min=3, max=7)},))
    for size in (3, 7):
        assert program(torch.ones(size, 3)).shape == (size, 2)
    for size in (2, 8):
        with pytest.raises(ShapeError, match=rf"'input': axis 0 \(batch\) is {size}, expected 3 to 7"):
            program(torch.ones(size, 3))
    least = runtime.compile(nn.Linear(3, 2), (x,), dynamic_shapes=({0: Dim("batch", min=4)},))
    with pytest.raises(ShapeError, match="expected at least 4"):
        least(torch.ones(3, 3))


def test_a_range_the_module_needs_is_kept() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(16, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table[: x.shape[0]]

    model = Positions()
    program = runtime.compile(model, (torch.ones(5, 3),), dynamic_shapes=({0: "seq"},))
    assert torch.equal(program(torch.ones(16, 3)), model(torch.ones(16, 3)))
    with pytest.raises(ShapeError, match="expected 0 to 16"):
        program(torch.ones(17, 3))


def test_run_by_name_needs_no_state_and_changes_it() -> None:
    model = Running()
    program = runtime.compile(model, (torch.ones(2, 3), torch.ones(2)))
    y = torch.ones(2)
    found = program.run({"x": torch.ones(2, 3), "y": y})
    assert found["output"].tolist() == [[3.0] * 3] * 2
    assert model.total.tolist() == [2.0] * 3 and y.tolist() == [2.0, 2.0]
    array = np.ones(2, np.float32)
    program.run({"x": np.ones((2, 3), np.float32), "y": array})
    assert model.total.tolist() == [4.0] * 3 and array.tolist() == [2.0, 2.0]
    program(np.ones((2, 3), np.float32), array)
    assert model.total.tolist() == [6.0] * 3 and array.tolist() == [4.0, 4.0]
    with pytest.raises(ModelError, match="'y' is missing"):
        program.run({"x": torch.ones(2, 3)})
