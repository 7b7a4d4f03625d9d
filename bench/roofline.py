"""Roofline figures of matrix products: rate over intensity, a panel an element type and thread count.

    python -m bench.roofline results.jsonl figure.png

draws what `python -m bench gemm --json results.jsonl` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]

# Marker and colour (Okabe and Ito's, which everybody can tell apart) of every contestant.
STYLES = {
    "sansuan": ("o", "#D55E00"),
    "onnxruntime": ("s", "#0072B2"),
    "openvino": ("^", "#009E73"),
    "torch": ("D", "#CC79A7"),
    "torch-prepacked": ("P", "#56B4E9"),
    "numpy": ("v", "#999999"),
}
FORMS = {"constant": "full", "input": "none", "cold": "left"}  # how much of a marker is filled
WIDTH, HEIGHT = 7.2, 5.0  # inches a panel
LABELS = {"L2": 0.55, "L3": 0.1, "memory": 0.3}  # how far along its line: those of L2 and L3 are close


def draw(records: Sequence[Record], path: str) -> None:
    """Write the figure of a run's results to `path`, in the format its ending names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {(record["roofs"], record["threads"]): record for record in records if "roofs" in record}
    columns = min(2, len(panels)) or 1
    rows = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, ((dtype, threads), roof) in zip(axes, panels.items(), strict=False):
        points = [
            record
            for record in records
            if "intensity" in record and (record["dtype"], record["threads"]) == (dtype, threads)
        ]
        _panel(axis, roof, points)
        axis.set_title(f"{dtype}, {threads} thread{'s' if threads > 1 else ''}")
    _legend(figure, records)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)


def _panel(axis: Any, roof: Record, points: Sequence[Record]) -> None:
    peak = roof["peak"] / 1e9
    intensities = [point["intensity"] for point in points] or [1.0]
    rates = [point["flops_per_second"] / 1e9 for point in points] or [peak]
    low, high = min(intensities) / 1.6, max(*intensities, 4 * peak * 1e9 / roof["levels"]["memory"]) * 1.6
    floor = max(min(rates) / 1.6, peak * 1e-4)
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor, peak * 2.2))
    axis.set(xlabel="operations per byte of A, B and C", ylabel="Gop/s")
    axis.axhline(peak, color="black", linewidth=1.4)
    axis.annotate(f"peak {peak:.0f} Gop/s", (high, peak), (-4, 4), textcoords="offset points", ha="right", fontsize=9)
    for name in LABELS:
        _slope(axis, name, roof["levels"][name] / 1e9, peak, low, floor)
    axis.grid(True, which="major", color="#E5E5E5", linewidth=0.6)
    axis.set_axisbelow(True)
    # Ours last, and so on top.
    for point in sorted(points, key=lambda point: point["contestant"] == "sansuan"):
        marker, colour = STYLES.get(point["contestant"], ("x", "black"))
        axis.plot(
            point["intensity"], point["flops_per_second"] / 1e9, marker, color=colour, fillstyle=FORMS[point["b"]],
            markersize=7 if point["contestant"] == "sansuan" else 5.5, markeredgewidth=1.0, alpha=0.85,
            markerfacecoloralt="white",
        )  # fmt: skip


def _slope(axis: Any, name: str, bandwidth: float, peak: float, low: float, floor: float) -> None:
    """The roof that reading from a level sets, up to the peak."""
    start = max(low, floor / bandwidth)
    end = peak / bandwidth
    if start >= end:
        return
    axis.plot([start, end], [start * bandwidth, peak], color="black", linewidth=1.0, linestyle="--")
    at = start * (end / start) ** LABELS[name]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axis.text(at, at * bandwidth, f"{name} {bandwidth:.0f} GB/s", fontsize=8, va="center", bbox=box)


def _legend(figure: Any, records: Sequence[Record]) -> None:
    from matplotlib.lines import Line2D

    used = {record["contestant"] for record in records if "intensity" in record}
    forms = {record["b"] for record in records if "intensity" in record}
    samples: list[tuple[str, str, str, Any]] = [
        (name, marker, colour, "full") for name, (marker, colour) in STYLES.items() if name in used
    ]
    samples += [(f"{form} B", "o", "black", fill) for form, fill in FORMS.items() if form in forms]
    handles = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=label, fillstyle=fill, markerfacecoloralt="w")
        for label, marker, colour, fill in samples
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 9), frameon=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the results in a file."""
    source, target = arguments or sys.argv[1:]
    draw([json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()], target)


if __name__ == "__main__":
    main()
