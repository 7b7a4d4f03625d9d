"""`python -m bench models`: whole models on every backend.

Everybody gets the same ONNX file (sizes fixed unless --dynamic) or the torch module it was made from.
"""

from __future__ import annotations

import argparse

from bench.contest import hold
from bench.report import Report
from bench.workload import CONTESTANTS, WORKLOADS, load, present


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default=",".join(WORKLOADS), help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--contestants", default=",".join(name for name in CONTESTANTS if name != "inductor"),
        help="default: %(default)s; inductor compiles C++ for a minute per model",
    )  # fmt: skip
    parser.add_argument("--dynamic", action="store_true", help="leave batch and sequence open in the ONNX file")


def run(options: argparse.Namespace, report: Report) -> None:
    """Every model asked for, in turn."""
    names = present(options.contestants)
    for model in options.models.split(","):
        work = load(model, options.dynamic)
        for threads in options.threads:
            hold(work.contest(threads), work.builders(names, threads), options.rounds, report)
