"""runtime.calibrate: the ranges of a model's activations, from data, as a policy for static quantization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.native import target as targets
from compiler.errors import SansuanError
from compiler.policy import Calibrated, Policy
from compiler.quantization import symmetric
from runtime.activation_range import METHODS, Histogram, squared_error
from runtime.activations import Observed, Observer, each_call
from runtime.api import build
from runtime.importing import Imported, load
from runtime.options import Options
from runtime.trial import TINY, Trial

ROWS = 2048  # of every activation, kept to try a product on
# Where each row's own range makes this much less error than one range for all, rows take their own as they come: that
# is a pass over the activation, which one range needs not.
WORTH_A_PASS = 1.2
STRENGTHS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75)  # of smoothing, tried for every matrix product; 0: none


def calibrate(
    model: Any,
    data: Iterable[Any],
    method: str = "minmax",
    *,
    dynamic_shapes: Any = None,
    threads: int | None = None,
) -> Policy:
    """A policy of precision "int8" with a range for every activation that meets weights, from running `model` on data.

    model, dynamic_shapes, threads: as in runtime.compile (a torch module is exported with the first of the data).
    data: inputs of calls, each a tuple of positional ones, a dict of named ones, or the only one. method: "minmax"
    spans all that was seen, "percentile" leaves out the outermost 0.01 %, "mse" takes the range with the nearest codes.
    For matrix products outlying channels are smoothed, weights rounded so that their errors make up for one another,
    and the mean error taken off the result; where one range for all rows is much worse than each row's own, rows keep
    their own. Policy.errors has the relative error of each product that is left.

    Raises SansuanError for an unknown method, ModelError without data, and what runtime.compile raises.
    """
    return Calibration.of(model, data, method, dynamic_shapes, threads).policy()


@dataclass
class Seen:
    """What was observed of a product's activation. channels: [K] greatest magnitude of each along the summed axis;
    rows: some of its rows [n, K]."""

    histogram: Histogram = field(default_factory=Histogram)
    channels: np.ndarray | None = None
    rows: list[np.ndarray] = field(default_factory=list)

    def add(self, product: Observed, array: np.ndarray, keep: int) -> None:
        """One more activation, of which up to `keep` rows are kept."""
        self.histogram.add(array)
        if product.is_matmul and product.weights.ndim == 2:
            rows = np.moveaxis(array, product.summed, -1).reshape(-1, array.shape[product.summed]).astype(np.float32)
            greatest = np.abs(rows).max(axis=0, initial=0)
            self.channels = greatest if self.channels is None else np.maximum(self.channels, greatest)
            self.rows.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(keep, len(rows))).astype(int))])


class Calibration:
    """A model, the calls it is calibrated with, and what was seen in them."""

    def __init__(self, imported: Imported, calls: Sequence[list[np.ndarray]], method: str, options: Options) -> None:
        if method not in METHODS:
            raise SansuanError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")
        self.imported, self.calls, self.options, self._method = imported, calls, options, METHODS[method]
        observer = Observer(imported.graph, options)
        self.products = observer.products
        self.seen: Mapping[str, Seen] = {product.site.key: Seen() for product in self.products}
        self.outputs = []
        for arrays in calls:
            outputs, activations = observer.run(arrays)
            self.outputs.append(outputs)
            for product in self.products:
                self.seen[product.site.key].add(product, activations[product.site.key], -(-ROWS // len(calls)))

    @staticmethod
    def of(model: Any, data: Iterable[Any], method: str, dynamic_shapes: Any, threads: int | None) -> Calibration:
        """From the arguments of `calibrate`."""
        items = list(data)
        options = Options.resolve(threads)
        first = items[0] if items and isinstance(items[0], tuple | list | Mapping) else tuple(items[:1])
        imported = load(model, first or None, dynamic_shapes)
        program = build(imported, None, "reference", targets.host(), options)
        return Calibration(imported, each_call(items, program.bind), method, options)

    def policy(self) -> Policy:
        """int8 for every product, in the ranges of the method."""
        calibrated, errors = dict[str, Calibrated](), dict[str, float]()
        for product in self.products:
            key = product.site.key
            if np.isfinite(self.seen[key].histogram.low):  # it ran, on something finite
                calibrated[key], errors[key] = self._best(product, self.seen[key])
        return Policy("int8", calibrated=calibrated, errors=errors)

    def _best(self, product: Observed, seen: Seen) -> tuple[Calibrated, float]:
        if seen.channels is None:
            ends = self._method(seen.histogram)
            return Calibrated(*ends), _independent_error(product, seen.histogram, ends)
        rows = np.concatenate(seen.rows)
        fit, held = (rows[::2], rows[1::2]) if len(rows) > 1 else (rows, rows)
        errors = {
            True: dict[float, float](),
            False: dict[float, float](),
        }  # of strengths, in one range and in each row's
        for strength in STRENGTHS:
            trial = self._trial(product, fit, np.abs(fit).max(axis=0), strength)
            for static, found in errors.items():
                found[strength] = trial.error(held, static)
        one_range, own_ranges = (min(found, key=lambda strength: found[strength]) for found in errors.values())
        static = errors[True][one_range] <= WORTH_A_PASS * errors[False][own_ranges]
        trial = self._trial(product, rows, seen.channels, one_range if static else own_ranges)
        if static and trial.factors is None:
            trial.ends = self._method(seen.histogram)  # of all rows
        return trial.settled(static)

    def _trial(self, product: Observed, rows: np.ndarray, channels: np.ndarray, strength: float) -> Trial:
        """A product smoothed so much (0: not at all), its range that of the rows. channels: the greatest magnitudes of
        all that was seen of each."""
        trial = Trial(product, rows, channels, strength)
        seen = Histogram()
        seen.add(trial.rows)
        trial.ends = self._method(seen)
        if self._method is METHODS["minmax"]:
            greatest = float(channels.max() if trial.factors is None else (channels / trial.factors).max())
            trial.ends = (-greatest if seen.low < 0 else 0.0), (greatest if seen.high > 0 else 0.0)
        return trial


def _independent_error(product: Observed, seen: Histogram, ends: tuple[float, float]) -> float:
    """The relative error of a product whose operands' errors are independent of each other."""
    weights = product.weights
    axes = tuple(range(1, weights.ndim)) if not product.is_matmul else (-3 - product.summed,)
    codes, scales = symmetric(weights, axes)
    of_weights = np.sum((codes * scales - weights) ** 2) / max(float(np.sum(weights**2)), TINY)
    power = float(np.sum(seen.counts * seen.centres**2))
    of_activation = squared_error(seen, *ends) / max(power, TINY)
    return float(np.sqrt(of_weights + of_activation))
