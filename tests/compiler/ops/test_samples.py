"""Generated from the registry: every sample of every op through inference, its reference, and its decomposition."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.reference.interpreter import run
from compiler.dims import Size
from compiler.op import lookup
from compiler.passes.decompose import decompose
from tests.compiler.ops.generated import (
    Case,
    assert_close,
    cases,
    concrete,
    fits,
    graph_of,
    static_shape,
    symbol_values,
    symbolic_shape,
)

CASES = dict(cases())
DECOMPOSED = {name: case for name, case in CASES.items() if case.op.decompose is not None}
# Which axes are 1 depends on the sizes: this asks for numbers.
FIXED_SIZES = frozenset({"squeeze-0"})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_inferred_types_are_the_reference_result_types(case: Case) -> None:
    expected = case.expected()
    graph, _ = graph_of(case, static_shape, len(expected))
    for value, array in zip(graph.outputs, expected, strict=True):
        assert fits(value.type, array), f"inferred {value.type}, found {array.dtype}{array.shape}"


@pytest.mark.parametrize("name", CASES.keys())
def test_inference_with_symbolic_sizes(name: str) -> None:
    case = CASES[name]
    expected = case.expected()
    graph, _ = graph_of(case, symbolic_shape, len(expected))
    for value, array in zip(graph.outputs, expected, strict=True):
        assert fits(concrete(value.type, symbol_values(case)), array), f"inferred {value.type}, found {array.shape}"


def test_squeeze_of_symbolic_sizes_has_unknown_rank_and_stays_a_host_step() -> None:
    graph, _ = graph_of(CASES["squeeze-0"], symbolic_shape, 1)
    assert graph.outputs[0].type.shape is None
    assert [node.op for node in decompose(graph).nodes] == ["squeeze"]


@pytest.mark.parametrize("name", DECOMPOSED.keys())
def test_decomposition_equals_the_reference(name: str) -> None:
    check_decomposition(DECOMPOSED[name], static_shape)


@pytest.mark.parametrize("name", sorted(DECOMPOSED.keys() - FIXED_SIZES))
def test_decomposition_of_symbolic_sizes_equals_the_reference(name: str) -> None:
    check_decomposition(DECOMPOSED[name], symbolic_shape)


def check_decomposition(case: Case, shape: Callable[[tuple[int, ...]], tuple[Size, ...]]) -> None:
    """Decompose a graph of the one node down to core ops, and run it."""
    expected = case.expected()
    graph, feeds = graph_of(case, shape, len(expected))
    core = decompose(graph)
    left = [node.op for node in core.nodes if lookup(node.op).lower is None]
    assert not left, f"not core ops: {left}"
    for found, array in zip(run(core, feeds), expected, strict=True):
        assert_close(found, array, case.sample.tolerance)
