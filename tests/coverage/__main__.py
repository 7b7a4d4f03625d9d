"""`python -m tests.coverage [family ...] [--kind k] [--from torch|ONNX] [--write]`: measure; write docs/models.md."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.coverage import report, workers
from tests.coverage.measure import FRONT_ENDS, Result


def main() -> int:
    """Measure what was asked for, print a line each, and answer 1 where something is wrong."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from tests.coverage.families import builders

    known = builders()
    order = {family: kind for family, (kind, _) in known.items()}
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
    parser.add_argument("families", nargs="*", help="families by name; none: all")
    parser.add_argument("--kind", action="append", choices=list(dict.fromkeys(order.values())))
    parser.add_argument("--from", dest="front_end", action="append", choices=FRONT_ENDS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write docs/models.md; rows of other families stay")
    chosen = parser.parse_args()
    if unknown := set(chosen.families) - set(order):
        parser.error(f"no family is called {', '.join(sorted(unknown))}; there are {', '.join(order)}")
    jobs = [
        (family, kind, front_end)
        for family, kind in order.items()
        if (not chosen.families or family in chosen.families) and (not chosen.kind or kind in chosen.kind)
        for front_end in chosen.front_end or FRONT_ENDS
    ]
    start, results = time.perf_counter(), []
    for result in workers.run(jobs, chosen.workers):
        results.append(result)
        print(line_of(result), flush=True)
        if chosen.write:  # after each, so that a run that is stopped leaves what it found
            report.write(results, order)
    right = sum(not result.failure for result in results)
    native = sum(result.passed for result in results)
    print(f"{len(results)} runs, {right} right, {native} of them native, {time.perf_counter() - start:.0f} s")
    return 0 if native == len(results) else 1


def line_of(result: Result) -> str:
    """A result as a line of text."""
    state = "ok  " if result.passed else "FAIL" if result.failure else "host"
    figures = f"error {result.error:.1e} (torch {result.torch_error:.1e}) host {result.host_steps} cuts {result.cuts}"
    more = f"kernels {result.kernels} {result.seconds:.1f} s"
    return f"{state} {result.family:<18} {result.front_end:<5} {figures} {more} {result.failure}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
