"""The onnx package's backend suite as pytest cases, one for each of its tests."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from onnx.backend.base import Backend
from onnx.backend.test.runner import Runner


@dataclass(frozen=True)
class SuiteCase:
    """One test of the suite: its category (Node, Simple, Real, PyTorchConverted, PyTorchOperator) and the body."""

    name: str
    category: str
    body: Callable[..., Any]

    def run(self) -> None:
        """Run the test; raises what it raises."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.body(None)


@functools.cache
def suite(backend: type[Backend]) -> dict[str, SuiteCase]:
    """Every CPU test of the suite for a backend, by name."""
    with warnings.catch_warnings():  # the suite computes infinities on purpose
        warnings.simplefilter("ignore")
        return {case.name: case for case in _cases(backend)}


def _cases(backend: type[Backend]) -> Iterator[SuiteCase]:
    for group, test_case in Runner(backend).test_cases.items():
        category = group.removeprefix("OnnxBackend").removesuffix("Test").removesuffix("Model")
        for attribute in dir(test_case):
            if attribute.startswith("test_") and attribute.endswith("_cpu"):
                yield SuiteCase(attribute.removesuffix("_cpu"), category, getattr(test_case, attribute))
