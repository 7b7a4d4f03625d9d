"""`python -m bench models`: whole models on every backend.

Everybody gets the same ONNX file (sizes fixed unless --dynamic) or the torch module it was made from; in INT8 some get
what ONNX Runtime's tool makes of the file.
"""

from __future__ import annotations

import argparse

from bench.contest import hold
from bench.contestants import entrants, present
from bench.report import Report
from bench.workload import PRECISIONS, WORKLOADS, load

RUNTIMES = "sansuan,sansuan-torch,onnxruntime,openvino,torch"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default=",".join(WORKLOADS), help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--precisions", type=_precisions, default=["fp32"],
        help=f"comma-separated, of {', '.join(PRECISIONS)} (default: fp32)",
    )  # fmt: skip
    parser.add_argument(
        "--contestants", default=RUNTIMES,
        help="default: %(default)s; inductor compiles C++ for a minute per model",
    )  # fmt: skip
    parser.add_argument("--dynamic", action="store_true", help="leave batch and sequence open in the ONNX file")


def run(options: argparse.Namespace, report: Report) -> None:
    """Every model asked for, in turn, in every precision."""
    names = present(options.contestants)
    for model in options.models.split(","):
        for precision in options.precisions:
            work = load(model, options.dynamic, precision)
            for threads in options.threads:
                hold(work.contest(threads), entrants(work, names, threads), options.rounds, report)


def _precisions(text: str) -> list[str]:
    words = text.split(",")
    if unknown := [word for word in words if word not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; expected of {', '.join(PRECISIONS)}")
    return words
