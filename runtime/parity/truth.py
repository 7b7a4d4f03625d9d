"""The model in FP64, in NumPy: what every candidate is measured against, and how far rounding moves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.reference.interpreter import ReferenceExecutable
from compiler import dtypes
from compiler.dtypes import DType
from compiler.errors import SansuanError
from compiler.ir import Graph
from compiler.passes.expose import Isolated, with_noise
from compiler.passes.precision import in_type, set_precision
from compiler.types import TensorType
from runtime.parity.metrics import norm
from runtime.parity.tolerance import Depth, Limit, Roundoff, disturbed, own_limit, total_limit

DRAWS = 2
_LARGE = 0.1  # relative errors beyond this are of cancellation, and no longer proportional to the elements

Arrays = Mapping[str, Any]


def in_fp64(exposed: Graph, arrays: Sequence[Any]) -> dict[str, Any]:
    """Every result of an exposed graph for its inputs, by name: floats as float64."""
    return _by_name(exposed, ReferenceExecutable(set_precision(exposed, "fp64")).run(arrays))


def in_own_types(graph: Graph, arrays: Sequence[Any]) -> list[Any]:
    """Every output of a graph by NumPy in the model's own types."""
    return ReferenceExecutable(graph).run(arrays)


class OwnTruth:
    """Isolated nodes in FP64 on given operands, and the bounds on their own errors."""

    def __init__(self, isolated: Isolated, fed: Sequence[np.ndarray], depths: Mapping[str, Depth]) -> None:
        """fed: an array for each input of the isolated graph, in the model's types."""
        self._isolated, self._depths, self._fed = isolated, depths, fed
        self._graph = in_type(isolated.graph, dtypes.float64)
        self._types = [_type(value) for value in isolated.graph.inputs]
        self.results: dict[str, Any] = dict(zip(isolated.results, self._run(list(map(_widened, fed))), strict=True))
        self._moved: dict[Roundoff, tuple[dict[str, float], dict[str, int]]] = {}
        self._own_types: dict[str, Any] | None = None

    def in_own_type(self, name: str) -> Any:
        """A result by NumPy in the model's types: what it may also be, where these overflow or tie."""
        if self._own_types is None:
            results = in_own_types(self._isolated.graph, self._fed)
            self._own_types = dict(zip(self._isolated.results, results, strict=True))
        return self._own_types[name]

    def limits(self, roundoff: Roundoff, node_of: Mapping[str, str]) -> dict[str, Limit]:
        """The bound for every result. node_of: the imported node of each."""
        plain, narrow = self._moves(Roundoff()), self._moves(roundoff)
        limits = {}
        for name, value in zip(self._isolated.results, self._isolated.graph.outputs, strict=True):
            depth = self._depths.get(node_of[name], Depth())
            flips = (narrow if depth.products else plain)[1]
            result = np.asarray(self.results[name])
            limits[name] = own_limit(
                _type(value), result.size, norm(result) if _counts(result) else 0.0, (plain[0][name], narrow[0][name]),
                flips[name], depth, roundoff,
            )  # fmt: skip
        return limits

    def _moves(self, roundoff: Roundoff) -> tuple[dict[str, float], dict[str, int]]:
        if roundoff not in self._moved:
            rng = np.random.default_rng(0)
            draws = []
            for _ in range(DRAWS):
                fed = [
                    disturbed(_widened(array), dtype, roundoff, rng) if _is_disturbed(dtype) else array
                    for array, dtype in zip(self._fed, self._types, strict=True)
                ]
                draws.append(dict(zip(self._isolated.results, self._disturbed(fed, roundoff, rng), strict=True)))
            self._moved[roundoff] = _distances(draws, self.results)
        return self._moved[roundoff]

    def _disturbed(self, fed: list[Any], roundoff: Roundoff, rng: np.random.Generator) -> list[Any]:
        moved = {}
        for name, array in self._graph.constants.items():
            held = dtypes.from_numpy(self._isolated.graph.constants.get(name, array).dtype)
            if _is_disturbed(held) and array.size:
                moved[name] = disturbed(array, held, roundoff, rng)
        try:
            return ReferenceExecutable(self._graph.with_constants(moved)).run(fed)
        except (SansuanError, ArithmeticError, LookupError, TypeError, ValueError):
            return self._run(fed)  # a weight that decides sizes must stay what it is

    def _run(self, fed: Sequence[Any]) -> list[Any]:
        return ReferenceExecutable(self._graph).run(fed)


def total_limits(exposed: Graph, arrays: Sequence[Any], total: Arrays, own: Mapping[str, Limit]) -> dict[str, Limit]:
    """Bounds on errors inherited and own together: the whole model in FP64 with every result off by what its own bound
    allows. total: the results without that."""
    noisy, places = with_noise(exposed)
    graph = set_precision(noisy, "fp64")
    names = [value.name for value in exposed.outputs]
    rng = np.random.default_rng(1)
    draws: list[dict[str, Any]] = []
    for _ in range(DRAWS):
        noise = [_noise(total[names[i]], _type(exposed.outputs[i]), own.get(names[i]), rng) for i in places]
        try:
            draws.append(dict(zip(names, ReferenceExecutable(graph).run([*arrays, *noise]), strict=True)))
        except (SansuanError, ArithmeticError, LookupError, TypeError, ValueError):
            continue  # sizes that data decides came out otherwise
    moved, flips = _distances(draws, total)
    limits = {}
    for value in exposed.outputs:
        limits[value.name] = total_limit(
            own.get(value.name, Limit()), _type(value), moved.get(value.name, np.inf), flips.get(value.name, 0)
        )
    return limits


def _noise(result: Any, dtype: DType, limit: Limit | None, rng: np.random.Generator) -> np.ndarray:
    result = np.asarray(result)
    noise = np.zeros(result.shape, dtype.numpy)
    if limit is None or not result.size:
        return noise
    if dtype.is_float:
        scale = norm(result)
        normal = rng.standard_normal(result.shape)
        if scale and limit.norm <= _LARGE * scale:
            noise = normal * np.where(np.isfinite(result), result, 0) * (limit.norm / scale)
        elif np.isfinite(limit.norm):
            noise = normal * (limit.norm / np.sqrt(result.size))
        return noise.astype(dtype.numpy)
    count = int(min(limit.different, result.size))
    places = rng.choice(result.size, count, replace=False)
    signs = rng.choice(np.array([1, -1], np.int8), count)
    noise.reshape(-1)[places] = signs.astype(dtype.numpy)
    return noise


def _distances(draws: Sequence[Arrays], expected: Arrays) -> tuple[dict[str, float], dict[str, int]]:
    """How far draws lie from what was expected: root mean square of L2 norms, most different elements."""
    moved: dict[str, float] = {}
    flips: dict[str, int] = {}
    for name, result in expected.items():
        known = [np.asarray(draw[name]) for draw in draws]
        known = [array for array in known if array.shape == np.shape(result)]
        if not known or not _counts(np.asarray(result)):
            continue
        with np.errstate(all="ignore"):
            moved[name] = float(np.sqrt(np.mean([norm(_gap(array, result)) ** 2 for array in known])))
        flips[name] = max(int(np.count_nonzero(array != result)) for array in known)
    return _Zero(moved), _Zero(flips)


class _Zero(dict[str, Any]):
    """Nothing moved where nothing is known: what no number says."""

    def __missing__(self, name: str) -> Any:
        return 0


def _gap(a: np.ndarray, b: Any) -> np.ndarray:
    return a.astype(np.float64) - np.asarray(b).astype(np.float64)


def _counts(array: np.ndarray) -> bool:
    return dtypes.from_numpy(array.dtype).kind in ("float", "int", "uint", "bool")


def _is_disturbed(dtype: DType) -> bool:
    """Whether values of a type are rounded numbers that the FP64 graph holds as float64."""
    return dtype.is_float and dtype.bits >= 16


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if _is_disturbed(dtypes.from_numpy(array.dtype)) else array


def _type(value: Any) -> DType:
    return value.type.dtype if isinstance(value.type, TensorType) else dtypes.string


def _by_name(graph: Graph, results: Sequence[Any]) -> dict[str, Any]:
    return {value.name: result for value, result in zip(graph.outputs, results, strict=True)}
