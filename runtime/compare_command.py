"""The command `sansuan compare`: node by node, for people and for a porter's CI."""

from __future__ import annotations

import argparse
from typing import Any

from compiler.errors import SansuanError
from runtime import importing
from runtime.binding import spec_of
from runtime.parity.compare import compare

DISAGREE = 3  # exit status; 1 is an error and 2 wrong usage


def add_parser(commands: Any, sizes: type[argparse.Action], size: Any) -> None:
    """Add the command to those of `sansuan`. sizes, size: how --size is collected and read there."""
    parser = commands.add_parser(
        "compare",
        help="numerical parity with other backends, node by node",
        description="Compare what every node gives. Exit status: 0 agreement, 3 disagreement, 1 an error.",
    )
    parser.add_argument("model", metavar="MODEL", help="path of an ONNX model")
    parser.add_argument(
        "--against",
        default="fp64",
        metavar="NAMES",
        help="by commas: fp64, the reference where it is among them (else the last one is), and further candidates "
        "such as onnxruntime, openvino, reference, bf16, unit:FAMILY (default: %(default)s)",
    )
    parser.add_argument("--candidate", default="native", help="what is judged first (default: %(default)s)")
    parser.add_argument("--inputs", metavar="FILE", help=".npz file with an array for each input, by name")
    parser.add_argument("--size", action=sizes, type=size, default={}, metavar="NAME=NUMBER", help="such as batch=8")
    parser.add_argument("--tolerance", type=float, help="greatest relative L2 of a node's own error")
    parser.add_argument("--threads", type=int, help="default: OMP_NUM_THREADS, else the cores this process may use")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
    parser.add_argument("--repro", metavar="FOLDER", help="write a model of the node to blame, with its operands")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Compare, print the report, write what is asked for. Returns 0 where all agree, else DISAGREE."""
    from runtime.cli import load_inputs, random_inputs

    candidates, reference = _roles(options.candidate, options.against)
    if options.inputs:
        inputs = load_inputs(options.inputs)
    else:
        graph = importing.load(options.model).graph
        specs = [spec_of(value, value.name, graph.size_names) for value in graph.inputs]
        inputs = random_inputs(specs, options.size)
    report = compare(options.model, inputs, candidates, reference, options.tolerance, threads=options.threads)
    print(report)
    if options.html:
        report.save_html(options.html)
    if options.repro:
        print(f"repro     {report.save_repro(options.repro)}")
    return 0 if report.agrees else DISAGREE


def _roles(candidate: str, against: str) -> tuple[list[str], str]:
    """Who is judged and by whom."""
    others = list(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    if not others:
        raise SansuanError("--against: nothing named; expected names such as onnxruntime,fp64")
    reference = "fp64" if "fp64" in others else others[-1]
    return [candidate, *(name for name in others if name not in (reference, candidate))], reference
