"""What a family's builder gives: a module, inputs, and which of their sizes vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tensors = tuple[torch.Tensor, ...]
Builder = Callable[[], "Case"]

BATCH_SEQ = {0: "batch", 1: "seq"}
BATCH = {0: "batch"}


@dataclass(frozen=True)
class Case:
    """A module in eval mode and its positional inputs.

    dynamic: for each input, axis -> name (or Dim) of the size that varies there; () if none do.
    other: inputs of other sizes, where some vary.
    onnx: why the model is not tried from ONNX, or "".
    """

    module: nn.Module
    inputs: Tensors
    dynamic: tuple[Mapping[int, Any], ...] = ()
    other: Tensors | None = None
    onnx: str = ""


class Picked(nn.Module):
    """A transformers model with positional inputs and a tuple of chosen outputs."""

    def __init__(self, model: nn.Module, names: Sequence[str], outputs: Sequence[str], fixed: Mapping[str, Any]):
        super().__init__()
        self.model, self.names, self.outputs, self.fixed = model, tuple(names), tuple(outputs), dict(fixed)

    def forward(
        self, first: torch.Tensor, second: Any = None, third: Any = None, fourth: Any = None, fifth: Any = None
    ) -> Tensors:
        """The outputs called `outputs` for inputs called `names`."""
        given = (first, second, third, fourth, fifth)[: len(self.names)]
        found = self.model(**dict(zip(self.names, given, strict=True)), **self.fixed, return_dict=True)
        return tuple(found[name] for name in self.outputs)


def plain(
    module: nn.Module,
    inputs: Callable[..., Tensors],
    dynamic: Sequence[Mapping[int, Any]] = (),
    other: Sequence[int] = (),
) -> Case:
    """A case of our own module: `inputs()` are the example, `inputs(*other)` of other sizes."""
    scatter_parameters(module)
    return Case(module.eval(), inputs(), tuple(dynamic), inputs(*other) if other else None)


def hugging(
    model: nn.Module,
    inputs: Callable[..., Mapping[str, torch.Tensor]],
    output: str | Sequence[str] = "last_hidden_state",
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    other: Sequence[int] = (),
    **fixed: Any,
) -> Case:
    """A case of a transformers model: `inputs()` are the example's keywords, `inputs(*other)` those of other sizes;
    `fixed` are keywords that are no tensors."""
    scatter_parameters(model)
    named = inputs()
    module = Picked(model.eval(), list(named), [output] if isinstance(output, str) else output, fixed)
    varied = tuple((dynamic or {}).get(name, {}) for name in named) if dynamic else ()
    return Case(module, tuple(named.values()), varied, tuple(inputs(*other).values()) if other else None)


def scatter_parameters(module: nn.Module) -> None:
    """Move what initialisation leaves at zeros and ones (biases, norm weights, statistics), lest an operand that is
    dropped or exchanged goes unseen."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and (parameter.ndim < 2 or not parameter.any()):
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))


def ids(batch: int, seq: int, vocabulary: int = 97) -> torch.Tensor:
    """Token ids [batch, seq] from 3 up, so that padding and the like do not occur by accident."""
    return torch.randint(3, vocabulary, (batch, seq))


def mask(batch: int, seq: int) -> torch.Tensor:
    """An attention mask [batch, seq] whose rows but the first end in padding."""
    lengths = torch.tensor([seq - min(row, seq - 1) for row in range(batch)])
    return (torch.arange(seq)[None, :] < lengths[:, None]).long()


def text(batch: int = 2, seq: int = 11) -> dict[str, torch.Tensor]:
    """What a text encoder or decoder takes."""
    return {"input_ids": ids(batch, seq), "attention_mask": mask(batch, seq)}


TEXT_SIZES = {"input_ids": BATCH_SEQ, "attention_mask": BATCH_SEQ}


def image(size: int = 32, channels: int = 3) -> Callable[..., dict[str, torch.Tensor]]:
    """A function from batch to pixels [batch, channels, size, size]."""
    return lambda batch=2: {"pixel_values": torch.randn(batch, channels, size, size)}
