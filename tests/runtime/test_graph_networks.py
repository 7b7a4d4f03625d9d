"""Graph networks with any number of nodes and edges: messages gathered, combined at their targets, no Host step."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import runtime

NODES, EDGES = torch.export.Dim("nodes", min=2), torch.export.Dim("edges", min=2)


class Convolution(nn.Module):
    """Kipf and Welling's layer: neighbours' features, weighted by both degrees."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        degree = x.new_ones(x.shape[0]).index_add(0, target, x.new_ones(target.shape[0]))
        weight = (degree[source] * degree[target]).rsqrt()
        messages = self.linear(x)[source] * weight[:, None]
        return x.new_zeros(x.shape[0], messages.shape[1]).index_add(0, target, messages)


class Attention(nn.Module):
    """Velickovic's layer with one head: a softmax over the edges that end in one node."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.score = nn.Linear(inputs, outputs), nn.Linear(2 * outputs, 1)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        (source, target), x = edges, self.linear(x)
        score = nn.functional.leaky_relu(self.score(torch.cat([x[source], x[target]], 1))[:, 0], 0.2)
        top = x.new_full((x.shape[0],), -torch.inf).scatter_reduce(0, target, score, "amax")
        weight = (score - top[target]).exp()
        total = x.new_zeros(x.shape[0]).scatter_add(0, target, weight)
        weight = weight / total[target]
        spread = target[:, None].expand(-1, x.shape[1])
        return torch.zeros_like(x).scatter_add(0, spread, x[source] * weight[:, None])


class Sage(nn.Module):
    """Hamilton's layer: the mean of neighbours beside a node's own features."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        spread = target[:, None].expand(-1, x.shape[1])
        mean = torch.zeros_like(x).scatter_reduce(0, spread, x[source], "mean", include_self=False)
        return self.own(x) + self.others(mean)


class Network(nn.Module):
    """Two layers and a mean over the nodes of each of 3 graphs in the batch."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = layer(13, 33), layer(33, 16)

    def forward(self, x: torch.Tensor, edges: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x, edges).relu(), edges)
        spread = graph[:, None].expand(-1, x.shape[1])
        return x.new_zeros(3, x.shape[1]).scatter_reduce(0, spread, x, "mean", include_self=False)


def graph_of(nodes: int, edges: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(nodes)
    graph = torch.arange(nodes) * 3 // nodes
    return torch.randn(nodes, 13), torch.randint(0, nodes, (2, edges)), graph


@pytest.mark.parametrize("layer", [Convolution, Attention, Sage])
def test_layers_of_any_size(layer: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = Network(layer).eval()
    shapes = {"x": {0: NODES}, "edges": {1: EDGES}, "graph": {0: NODES}}
    programs = [
        runtime.compile(module, graph_of(40, 200), dynamic_shapes=shapes, threads=threads) for threads in (1, 3)
    ]
    for nodes, edges in [(40, 200), (3, 2), (7, 901), (500, 20_000)]:
        inputs = graph_of(nodes, edges)
        found, again = (program(*inputs).numpy() for program in programs)
        with torch.no_grad():
            exact = copy.deepcopy(module).double()(inputs[0].double(), *inputs[1:]).numpy()
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
        assert np.array_equal(found, again)
    assert "host" not in str(programs[0].explain()).lower() and "cuts: none" in str(programs[0].explain())
