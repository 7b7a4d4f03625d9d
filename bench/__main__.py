"""`python -m bench gemm|models|compile|call`: the same work on every backend, one JSON line a result."""

from __future__ import annotations

import argparse
import importlib

from bench.report import Report

BENCHES = ("gemm", "models", "compile", "call")


def main(arguments: list[str] | None = None) -> None:
    """Run one bench."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="bench", required=True, metavar="|".join(BENCHES))
    for name in BENCHES:
        module = importlib.import_module(f"bench.{name}")
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0], description=module.__doc__)
        command.add_argument("--threads", type=_numbers, default=[1], help="comma-separated counts (default: 1)")
        command.add_argument("--rounds", type=int, default=15, help="samples a contestant (default: %(default)s)")
        command.add_argument("--json", metavar="FILE", help="append JSON lines there; - for stdout")
        module.arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    report = Report(options.bench, options.json)
    options.run(options, report)
    report.close()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
