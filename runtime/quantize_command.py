"""The command `sansuan quantize`: as much of a model in 8 bits as an error bound allows, as a policy file."""

from __future__ import annotations

import argparse
from typing import Any

from runtime.activation_range import METHODS
from runtime.quantization import quantize


def add_parser(commands: Any) -> None:
    """Add the command to those of `sansuan`."""
    parser = commands.add_parser(
        "quantize",
        help="a policy for 8-bit products, from data",
        description="Calibrate with data and keep out of 8 bits what the bound does not allow.",
    )
    parser.add_argument("model", metavar="MODEL", help="path of an ONNX model")
    parser.add_argument(
        "--data", metavar="FILE", nargs="+", required=True, help=".npz files, each with the inputs of a call by name"
    )
    parser.add_argument(
        "--max-error", type=float, default=0.01, help="relative L2 of the outputs (default: %(default)s)"
    )
    parser.add_argument("--method", choices=sorted(METHODS), default="mse", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="default: OMP_NUM_THREADS, else the cores this process may use")
    parser.add_argument("--policy", metavar="FILE", help="write the policy, which --precision takes")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Quantize, print the choices, write the policy."""
    from runtime.cli import load_inputs

    data = [load_inputs(path) for path in options.data]
    found = quantize(options.model, data, options.max_error, options.method, threads=options.threads)
    print(found)
    if options.policy:
        found.policy.save(options.policy)
