"""An analytic model of the GEMM engine: `python -m bench.model [--machine all] [--figure model.svg] [--validate]`.

Predicts what fraction of its multiplier's peak a product reaches on machines that are not here, from the code the
engine emits for them and what it decides there, and says what binds. `--validate` predicts for this machine, from its
measured limits, and compares with measured products. See docs/model.md for the method.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.gemm_kernels import Case
from bench.model_cost import Prediction, predict
from bench.model_machines import MACHINES, Machine, measured
from bench.report import table
from bench.shapes import Shape, parse
from compiler.errors import DtypeError

DTYPES = ("float64", "float32", "bfloat16", "int8")
SHAPES = "256x256x256,1024x1024x1024,4096x4096x4096,128x768x768,128x3072x768,509x251x1021,8192x32x256,16x4096x4096"
COLUMNS = ("machine", "unit", "product", "B", "of peak", "Gop/s", "binds", "largest loss")
SCALES = (0.5, 2.0)  # of a figure that is assumed
CENTRAL = Shape(1024, 1024, 1024)


def cases(shapes: Sequence[Shape], dtypes: Sequence[str], forms: Sequence[str]) -> list[Case]:
    """Every product asked for."""
    return [Case(s.m, s.n, s.k, form, dtype=dtype) for dtype in dtypes for s in shapes for form in forms]


def predictions(machine: Machine, asked: Sequence[Case], busy: int = 1) -> list[Prediction]:
    """What of these the machine has units for."""
    found = []
    for case in asked:
        try:
            found.append(predict(machine, case, busy))
        except DtypeError:
            continue
    return found


def row(prediction: Prediction) -> tuple[str, ...]:
    """A row of the table."""
    case, machine = prediction.case, prediction.machine
    seconds = prediction.cycles / machine.clock
    loss = prediction.parts[prediction.loss] / prediction.cycles
    return (
        machine.name, prediction.kernel.unit, str(Shape(case.m, case.n, case.k)), case.b, f"{prediction.fraction:.1%}",
        f"{2 * case.m * case.n * case.k / seconds / 1e9:.0f}", prediction.binds, f"{prediction.loss} {loss:.1%}",
    )  # fmt: skip


def sensitivity(machine: Machine, case: Case) -> list[tuple[str, float, float, float]]:
    """Of every assumed figure: its name, and the fraction of peak with half, all and twice of it."""
    found = []
    for name in machine.assumed:
        scales = (SCALES[0], 1.0, SCALES[1])
        fractions = [predict(machine.scaled(name, scale), case).fraction for scale in scales]
        found.append((name, fractions[0], fractions[1], fractions[2]))
    return found


def sensitivity_table(machine: Machine, dtypes: Sequence[str]) -> str:
    """What assumed figures decide at 1024^3; those that decide nothing are left out."""
    rows = []
    for prediction in predictions(machine, cases((CENTRAL,), dtypes, ("constant",))):
        for name, less, now, more in sensitivity(machine, prediction.case):
            if max(less, now, more) - min(less, now, more) >= 0.005:
                rows.append((prediction.kernel.unit, name, f"{less:.1%}", f"{now:.1%}", f"{more:.1%}"))
    if not rows:
        return f"{machine.title}: no assumed figure decides anything at {CENTRAL}"
    columns = ("unit", "assumed", "half of it", "as assumed", "twice")
    return table(f"{machine.title} at {CENTRAL}, B constant: of peak", columns, rows, left=2)


def machines(names: str) -> list[Machine]:
    """Those named, `all` of the table, `host` this one as measured now. Raises ValueError for other names."""
    words = list(MACHINES) if names == "all" else names.split(",")
    if unknown := [word for word in words if word not in MACHINES and word != "host"]:
        raise ValueError(f"no machine {', '.join(unknown)}; expected all or some of host, {', '.join(MACHINES)}")
    return [measured() if word == "host" else MACHINES[word]() for word in words]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables, draw the figure, or validate."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("--machine", default="all", help=f"all, or some of host, {', '.join(MACHINES)}")
    parser.add_argument("--shapes", type=parse, default=parse(SHAPES), help="as in bench gemm (default: %(default)s)")
    parser.add_argument("--dtype", default=",".join(DTYPES))
    parser.add_argument("--b", default="constant,row", help="constant, row, column, cold (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="all cores have a product each and share the bandwidth")
    parser.add_argument("--figure", metavar="FILE", help="draw fractions of peak over square sizes there, .svg or .png")
    parser.add_argument("--validate", action="store_true", help="measure this machine and compare; takes minutes")
    options = parser.parse_args(arguments)
    dtypes = options.dtype.split(",")
    if options.validate:
        from bench.model_validate import validate

        print(validate(measured(), dtypes))
        return
    try:
        chosen = machines(options.machine)
    except ValueError as error:
        parser.error(str(error))
    asked = cases(options.shapes, dtypes, options.b.split(","))
    for machine in chosen:
        found = predictions(machine, asked, machine.cores if options.busy else 1)
        print(table("", COLUMNS, [row(prediction) for prediction in found], left=4), end="\n\n")
        print(sensitivity_table(machine, dtypes), end="\n\n", flush=True)
    if options.figure:
        from bench.model_figure import draw

        draw(chosen, dtypes, options.figure)


if __name__ == "__main__":
    main()
