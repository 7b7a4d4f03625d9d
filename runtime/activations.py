"""What flows into the products of a model: the operands that static quantization needs the ranges of, observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backends.native import target as targets
from backends.native.executable import Executable
from compiler.builder import Builder
from compiler.errors import ModelError
from compiler.ir import Graph, Value
from compiler.passes.lower import lower
from compiler.passes.narrow import Site, activation, sites
from compiler.passes.narrow_operands import Operands
from compiler.pipeline import optimize
from runtime.options import Options


@dataclass(frozen=True, eq=False)
class Observed:
    """A product whose activation can be observed. weights: its constant operand as float32 [.., K, N], or of a
    convolution [O, C/group, kernel..]; summed: which axis of the activation the product sums over (-1 or -2)."""

    site: Site
    activation: Value
    weights: np.ndarray
    summed: int

    @property
    def is_matmul(self) -> bool:
        """Whether it is a matrix product, not a convolution."""
        return self.site.node.op == "matmul"


def _observable(fused: Graph) -> list[Observed]:
    """The products of a fused graph that can run in 8 bits, in order."""
    operands = Operands(Builder(fused))
    operands.builder.nodes.extend(fused.nodes)
    found = []
    for site in sites(fused):
        value = activation(operands, site.node)
        if value is None:
            continue
        left = value is site.node.inputs[0]
        weights = operands.constant(site.node.inputs[1 if left else 0])
        assert weights is not None
        found.append(Observed(site, value, weights.astype(np.float32), -1 if left else -2))
    return found


class Observer:
    """Runs a model and shows what flows into each of its products."""

    def __init__(self, graph: Graph, options: Options) -> None:
        """graph: as imported, without a policy."""
        fused = optimize(graph)
        self.products = _observable(fused)
        self._values = list(dict.fromkeys(product.activation for product in self.products))
        self._results = len(fused.outputs)
        watching = replace(fused, outputs=(*fused.outputs, *self._values))
        self._executable = Executable(lower(watching), targets.host(), options)

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Mapping[str, np.ndarray]]:
        """The model's outputs, and the activation of each product by its key, for inputs in order."""
        outputs = self._executable.run(arrays)
        by_name = {value.name: array for value, array in zip(self._values, outputs[self._results :], strict=True)}
        seen = {product.site.key: by_name[product.activation.name] for product in self.products}
        return outputs[: self._results], seen


def each_call(data: Iterable[Any], bind: Callable[..., list[np.ndarray]]) -> list[list[np.ndarray]]:
    """The inputs of every call that `data` describes, in order: a tuple of positional arguments, a dict of named ones,
    or the only one. Raises ModelError where there is none."""
    calls = []
    for item in data:
        if isinstance(item, Mapping):
            calls.append(bind(**item))
        else:
            calls.append(bind(*item) if isinstance(item, tuple | list) else bind(item))
    if not calls:
        raise ModelError("data: found no inputs; expected at least one set of inputs the model is called with")
    return calls
