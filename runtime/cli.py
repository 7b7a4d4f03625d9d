"""The `sansuan` command: what the machine offers, what a model compiles to, how fast it runs."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import runtime
from compiler.errors import ModelError, SansuanError, ShapeError
from compiler.policy import Policy
from runtime import compare_command, quantize_command
from runtime.binding import Spec
from runtime.program import Program

WIDTH = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, the command's own, or 1 after an error told in one line (2 from
    argparse for usage)."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options) or 0
    except (SansuanError, OSError) as error:
        print(f"sansuan: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return status


def show_target(options: argparse.Namespace) -> None:
    """Print the fields of this machine's Target and the units its products may run on, best first."""
    target = runtime.target()
    for name, value in dataclasses.asdict(target).items():
        text = " ".join(sorted(value)) if isinstance(value, frozenset) else str(value)
        print(textwrap.fill(text, WIDTH, initial_indent=f"{name:<10}", subsequent_indent=" " * 10))
    print("units")
    for family, (operands, missing) in target.unit_families.items():
        text = f"needs {missing}" if missing else operands
        print(textwrap.fill(text, WIDTH, initial_indent=f"  {family:<13}", subsequent_indent=" " * 15))


def show_compiled(options: argparse.Namespace) -> None:
    """Compile, then print inputs, outputs, sizes, compile time and the ledger."""
    program = _compile(options)
    if options.tune:  # products are tuned for the sizes they meet
        program.run(random_inputs(program.inputs, options.size))
    print(program.explain())


def run(options: argparse.Namespace) -> None:
    """Compile, run once, print the outputs; then the latency over `--repeat` further runs."""
    program = _compile(options)
    inputs = load_inputs(options.inputs) if options.inputs else random_inputs(program.inputs, options.size)
    for name, array in program.run(inputs).items():
        print(f"result    {name}: {array.dtype}{list(array.shape)}{_summary(array)}")
    if options.repeat:
        samples = [_seconds(program, inputs) for _ in range(options.repeat)]
        low, median, high = min(samples), statistics.median(samples), max(samples)
        print(
            f"latency   median {median * 1e3:.4g} ms, best {low * 1e3:.4g}, worst {high * 1e3:.4g}, {len(samples)} runs"
        )


def random_inputs(specs: Sequence[Spec], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Arrays for input specs: normal numbers, and 0 or 1 for integers, which any table can be indexed with. A named
    size not in `sizes` is 1. Raises ShapeError for a name in `sizes` that no input has, ModelError for an input that
    is not a tensor of numbers of known rank."""
    names = {size for spec in specs for size in spec.shape or () if isinstance(size, str)}
    if unknown := sorted(set(sizes) - names):
        found = ", ".join(sorted(names)) or "none"
        raise ShapeError(f"--size {', '.join(unknown)}: no input has a size of that name; the model's are: {found}")
    rng = np.random.default_rng(0)
    arrays = {}
    for spec in specs:
        if spec.dtype is None or spec.dtype.hasobject or spec.shape is None:
            raise ModelError(f"input {spec}: expected numbers of known rank to make up; pass it with --inputs")
        shape = [sizes.get(size, 1) if isinstance(size, str) else size for size in spec.shape]
        whole = spec.dtype.kind in "iub"
        arrays[spec.name] = (rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)).astype(spec.dtype)
    return arrays


def load_inputs(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises ModelError where it is another kind of file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: not an .npz file of arrays; write one with numpy.savez(path, name=array)") from error


def _compile(options: argparse.Namespace) -> Program:
    start = time.perf_counter()
    precision = options.precision
    if precision is not None and precision.endswith(".npz"):
        precision = Policy.load(precision)
    program = runtime.compile(
        options.model, precision=precision, backend=options.backend, threads=options.threads, tune=options.tune
    )
    elapsed = time.perf_counter() - start
    for kind, specs in (("input", program.inputs), ("output", program.outputs)):
        for spec in specs:
            print(f"{kind:<10}{spec}")
    print(f"compiled  in {elapsed:.3f} s")
    return program


def _seconds(program: Program, inputs: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    program.run(inputs)
    return time.perf_counter() - start


def _summary(array: np.ndarray) -> str:
    if array.size == 0 or array.dtype.kind not in "fiub":
        return ""
    return f", min {array.min():.6g}, max {array.max():.6g}, mean {array.mean():.6g}"


def _size(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not (name and equals and number.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER such as batch=8, found {text!r}")
    return name, int(number)


class _Sizes(argparse.Action):
    """Collects --size NAME=NUMBER into a dictionary."""

    def __call__(self, parser: Any, options: argparse.Namespace, value: Any, option: str | None = None) -> None:
        setattr(options, self.dest, {**getattr(options, self.dest), value[0]: value[1]})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sansuan", description="A mixed-precision tensor runtime for CPUs.")
    commands = parser.add_subparsers(required=True, metavar="target|compile|run|compare|quantize")
    target = commands.add_parser("target", help="what this machine offers")
    target.set_defaults(command=show_target)

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", metavar="MODEL", help="path of an ONNX model")
    model.add_argument("--precision", help="fp64, fp32, bf16, int8 or a policy file (.npz); as written without it")
    model.add_argument("--backend", default="native", help="native or reference (default: %(default)s)")
    model.add_argument("--threads", type=int, help="default: OMP_NUM_THREADS, else the cores this process may use")
    model.add_argument("--size", action=_Sizes, type=_size, default={}, metavar="NAME=NUMBER", help="such as batch=8")
    model.add_argument("--tune", action="store_true", help="measure how best to do its products, and remember it")

    compiling = commands.add_parser("compile", parents=[model], help="the ledger, sizes and compile time of a model")
    compiling.set_defaults(command=show_compiled)

    running = commands.add_parser("run", parents=[model], help="outputs and latency on random or given inputs")
    running.add_argument("--inputs", metavar="FILE", help=".npz file with an array for each input, by name")
    running.add_argument("--repeat", type=int, default=10, help="runs to time (default: %(default)s)")
    running.set_defaults(command=run)
    compare_command.add_parser(commands, _Sizes, _size)
    quantize_command.add_parser(commands)
    return parser
