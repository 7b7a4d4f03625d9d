"""The figure of the model: predicted fractions of peak over square products, a panel a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gemm_kernels import Case
from bench.model_cost import Prediction
from bench.model_machines import Machine

SIZES = (32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
# Okabe and Ito's colours, which everybody can tell apart.
COLOURS = {"float64": "#0072B2", "float32": "#D55E00", "bfloat16": "#009E73", "int8": "#CC79A7"}
MARKERS = {"multiplier": "o", "loads": "^", "front end": "s", "vectors": "P", "results": "D", "packing": "X",
           "bandwidth": "v"}  # fmt: skip
GOAL = 0.9
WIDTH, HEIGHT = 7.2, 4.6  # inches a panel


def draw(machines: Sequence[Machine], dtypes: Sequence[str], path: str) -> None:
    """Write the figure to `path`, in the format its ending names."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from bench.model import predictions

    columns = min(2, len(machines))
    rows = -(-len(machines) // columns)
    with rc_context({"svg.hashsalt": "model"}):
        figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(machines) :]:
            axis.set_visible(False)
        bound: set[str] = set()
        for axis, machine in zip(axes, machines, strict=False):
            for dtype in dtypes:
                found = predictions(machine, [Case(n, n, n, "row", dtype=dtype) for n in SIZES])
                _line(axis, dtype, found)
                bound |= {prediction.binds for prediction in found}
            _decorate(axis, machine.title)
        _legend(figure, dtypes, [name for name in MARKERS if name in bound])
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)


def _line(axis: Any, dtype: str, found: Sequence[Prediction]) -> None:
    sizes, fractions = [p.case.m for p in found], [100 * p.fraction for p in found]
    axis.plot(sizes, fractions, color=COLOURS.get(dtype, "black"), linewidth=1.2)
    for size, fraction, prediction in zip(sizes, fractions, found, strict=True):
        axis.plot(size, fraction, MARKERS.get(prediction.binds, "*"), color=COLOURS.get(dtype, "black"), markersize=6)


def _decorate(axis: Any, title: str) -> None:
    axis.set(
        xscale="log", ylim=(0, 105), xlabel="M = N = K, B packed in the call", ylabel="percent of the multiplier's peak"
    )
    axis.axhline(100 * GOAL, color="black", linewidth=1.0, linestyle="--")
    axis.set_xticks(SIZES[::2], [str(size) for size in SIZES[::2]], minor=False)
    axis.minorticks_off()
    axis.grid(True, which="major", color="#E5E5E5", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_title(title)


def _legend(figure: Any, dtypes: Sequence[str], bound: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLOURS.get(dtype, "black"), label=dtype) for dtype in dtypes]
    handles += [
        Line2D([], [], marker=MARKERS[name], color="black", linestyle="", label=f"bound by {name}") for name in bound
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
