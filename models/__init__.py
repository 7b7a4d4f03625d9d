"""Models the project is measured on, written in plain torch: each module's `build(...)` gives (model, inputs).

`build(name, **options)` here finds one by name. Importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# name -> (module with `build`, positional arguments)
MODELS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "mlp": ("models.mlp", ()),
    "resnet50": ("models.resnet", ()),
    "bert-base": ("models.bert", ("base",)),
    "bert-minilm": ("models.bert", ("minilm",)),
    "bert-tiny": ("models.bert", ("tiny",)),
    "minilm": ("models.minilm", ()),
    "gpt": ("models.gpt", ()),
    "gpt-tiny": ("models.gpt", ("tiny",)),
    "digits": ("models.digits", ()),
    "chars": ("models.chars", ()),
}


def build(name: str, **options: Any) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The model called `name` in eval mode and a tuple of example inputs. Raises KeyError for an unknown name."""
    if name not in MODELS:
        raise KeyError(f"no model is called {name!r}; expected one of {', '.join(MODELS)}")
    module, arguments = MODELS[name]
    return importlib.import_module(module).build(*arguments, **options)


def dynamic_axes(name: str) -> tuple[dict[int, str], ...]:
    """For each input of the model, which axes vary and what their sizes are called."""
    return importlib.import_module(MODELS[name][0]).DYNAMIC
