"""Graphs, fields, recommenders and tables in plain torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as f

from tests.coverage.case import BATCH, BATCH_SEQ, Builder, Case, Tensors, ids, mask, plain

KIND = "other networks in plain torch"


class GraphLayer(nn.Module):
    """Mean of the neighbours' messages (a graph convolution), gathered and scattered along edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message, self.own = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges[0], edges[1]
        sent = self.message(x)[source]
        total = torch.zeros_like(x).index_add(0, target, sent)
        count = torch.zeros_like(x[:, 0]).index_add(0, target, torch.ones_like(sent[:, 0])).clamp(min=1.0)
        return f.relu(self.own(x) + total / count[:, None])


class GraphAttention(nn.Module):
    """Softmax over each node's incoming edges, by scatter-max and scatter-add (GAT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.score = nn.Linear(width, width), nn.Linear(2 * width, 1)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges[0], edges[1]
        sent = self.value(x)
        score = f.leaky_relu(self.score(torch.cat([sent[source], sent[target]], -1)), 0.2).squeeze(-1)
        top = torch.full_like(x[:, 0], -1e9).scatter_reduce(0, target, score, "amax")
        weight = (score - top[target]).exp()
        total = torch.zeros_like(x[:, 0]).scatter_add(0, target, weight)
        weight = weight / (total[target] + 1e-9)
        return torch.zeros_like(sent).index_add(0, target, sent[source] * weight[:, None])


class GraphNet(nn.Module):
    """Two kinds of layers and a mean over nodes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.out = GraphLayer(width), GraphAttention(width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.out(self.second(self.first(x, edges), edges).mean(0))


def graph(nodes: int = 10, edges: int = 23) -> Tensors:
    """Node features and (source, target) pairs."""
    return torch.randn(nodes, 16), torch.randint(0, nodes, (2, edges))


class Field(nn.Module):
    """A radiance field: encoded points and directions to colours, composed along each ray (NeRF)."""

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.deep = nn.Sequential(nn.Linear(3 + 6 * levels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.density, self.colour = (
            nn.Linear(width, 1),
            nn.Sequential(nn.Linear(width + 3, 16), nn.ReLU(), nn.Linear(16, 3)),
        )

    def forward(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        depths = torch.linspace(1.0, 3.0, 8, dtype=origins.dtype)
        points = origins[:, None] + directions[:, None] * depths[:, None]
        angles = points[..., None, :] * 2.0 ** torch.arange(self.levels, dtype=origins.dtype)[:, None]
        x = self.deep(torch.cat([points, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1))
        opacity = 1 - (-f.softplus(self.density(x)[..., 0]) * 0.25).exp()
        left = torch.cumprod(torch.cat([torch.ones_like(opacity[:, :1]), 1 - opacity[:, :-1]], 1), 1)
        turned = f.normalize(directions, dim=-1)[:, None].expand(-1, 8, -1)
        colours = self.colour(torch.cat([x, turned], -1)).sigmoid()
        return ((opacity * left)[..., None] * colours).sum(1)


class Recommender(nn.Module):
    """DLRM: bags of sparse features, products of all pairs, two MLPs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(50, width, mode=mode) for mode in ("sum", "mean"))
        self.dense = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(width + 3, 16), nn.ReLU(), nn.Linear(16, 1))
        self.register_buffer("pairs", torch.triu_indices(3, 3, 1))

    def forward(self, dense: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        x = self.dense(dense)
        parts = torch.stack([x, self.bags[0](first), self.bags[1](second)], 1)
        products = (parts @ parts.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([x, products], -1)).sigmoid()[:, 0]


class Towers(nn.Module):
    """Two towers and the likeness of user and item, hard negatives by top-k."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(40, width), nn.Embedding(60, width)
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 12)) for _ in range(2))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, i = (
            f.normalize(tower(x), dim=-1)
            for tower, x in zip(self.towers, (self.user(users), self.item(items)), strict=True)
        )
        return torch.topk(u @ i.T, 3, dim=-1)


class Wide(nn.Module):
    """Wide and deep: crossed features by a factorisation machine beside an MLP."""

    def __init__(self, fields: int = 5, width: int = 6) -> None:
        super().__init__()
        self.words, self.bias = nn.Embedding(100, width), nn.Embedding(100, 1)
        self.deep = nn.Sequential(nn.Linear(fields * width, 16), nn.BatchNorm1d(16), nn.SELU(), nn.Linear(16, 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        crossed = 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)).sum(-1, keepdim=True)
        return torch.sigmoid(self.bias(tokens).sum(1) + crossed + self.deep(x.flatten(1)))


class PointNet(nn.Module):
    """Points as a set: shared convolutions, the maximum, a learnt turn of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(
            nn.Conv1d(3, 16, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 9)
        )
        self.look = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 1))
        self.judge = nn.Linear(24, 7)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        turn = self.turn(points).view(-1, 3, 3) + torch.eye(3)
        x = self.look(torch.bmm(points.transpose(1, 2), turn).transpose(1, 2))
        return self.judge(torch.max(x, dim=2)[0])


class Capsules(nn.Module):
    """Routing by agreement, three rounds (Sabour et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(1, 12, 4, 8, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        votes = (x[:, :, None, None, :] @ self.weight).squeeze(3)
        logits = torch.zeros_like(votes[..., 0])
        out = votes.sum(1)
        for _ in range(3):
            out = (logits.softmax(2)[..., None] * votes).sum(1)
            size = (out**2).sum(-1, keepdim=True)
            out = out * size / (1 + size) / (size + 1e-7).sqrt()
            logits = logits + (votes * out[:, None]).sum(-1)
        return torch.linalg.vector_norm(out, dim=-1)


class TextConvolution(nn.Module):
    """Words, convolutions of several widths, the maximum over time (Kim 2014); padding masked."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(97, 16, padding_idx=0)
        self.looks = nn.ModuleList(nn.Conv1d(16, 8, width, padding=width // 2) for width in (3, 5))
        self.judge = nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens).transpose(1, 2)
        found = [look(x).masked_fill(kept[:, None] == 0, -1e4).amax(2) for look in self.looks]
        return self.judge(f.relu(torch.cat(found, 1)))


class Sorted(nn.Module):
    """A set summary: sorted features, quantiles, counts and cumulative sums."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ordered, places = torch.sort(x, dim=-1)
        return ordered, places, x.cumsum(-1), x.argmax(-1), x.median(-1)[0], x.std(-1), x.logsumexp(-1)


def autoencoder() -> nn.Module:
    """A stack down to three numbers and back."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 3), nn.Tanh(), nn.Linear(3, 32), nn.CELU(),
        nn.Linear(32, 64), nn.Softplus(), nn.Unflatten(1, (8, 8)),
    )  # fmt: skip


def torch_transformer() -> Case:
    """torch.nn.Transformer, both halves, with a causal mask; the batch dynamic."""

    class Both(nn.Module):
        """Source and target already embedded."""

        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            causal = torch.triu(torch.full((target.shape[1], target.shape[1]), float("-inf")), 1)
            return self.model(source, target, tgt_mask=causal, tgt_is_causal=True)

    return plain(Both(), lambda batch=2: (torch.randn(batch, 9, 16), torch.randn(batch, 6, 16)), [BATCH, BATCH], (3,))


def of_batch(build: type[nn.Module] | object, *shape: int) -> Case:
    """Float input, the batch dynamic."""
    assert callable(build)
    return plain(build(), lambda batch=2: (torch.randn(batch, *shape),), [BATCH], (5,))


FAMILIES: dict[str, Builder] = {
    "graph network (plain)": lambda: plain(GraphNet(), graph, [{0: "nodes"}, {1: "edges"}], (7, 31)),
    "NeRF (plain)": lambda: plain(
        Field(), lambda rays=5: (torch.randn(rays, 3), torch.randn(rays, 3)), [{0: "rays"}, {0: "rays"}], (9,)
    ),
    "DLRM (plain)": lambda: plain(
        Recommender(),
        lambda batch=4: (torch.randn(batch, 5), ids(batch, 3, 50), ids(batch, 6, 50)),
        [BATCH, BATCH, BATCH],
        (7,),
    ),
    "two towers (plain)": lambda: plain(
        Towers(),
        lambda users=4, items=9: (torch.randint(0, 40, (users,)), torch.randperm(60)[:items]),
        [{0: "users"}, {0: "items"}],
        (3, 13),
    ),
    "wide and deep (plain)": lambda: plain(Wide(), lambda batch=4: (ids(batch, 5),), [BATCH], (7,)),
    "PointNet (plain)": lambda: plain(
        PointNet(), lambda batch=2, points=19: (torch.randn(batch, 3, points),), [{0: "batch", 2: "points"}], (3, 11)
    ),
    "capsules (plain)": partial(of_batch, Capsules, 12, 8),
    "text convolution (plain)": lambda: plain(
        TextConvolution(), lambda batch=2, seq=11: (ids(batch, seq), mask(batch, seq)), [BATCH_SEQ, BATCH_SEQ], (3, 7)
    ),
    "sorted sets (plain)": partial(of_batch, Sorted, 13),
    "autoencoder (plain)": partial(of_batch, autoencoder, 8, 8),
    "torch.nn.Transformer (plain)": torch_transformer,
}
