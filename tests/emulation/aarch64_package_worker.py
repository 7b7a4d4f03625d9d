"""Runs in the emulated Arm Python: compiles and runs the jobs of a folder, and reports on them and on the machine."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import runtime
from backends.native import target as targets
from backends.native.entry import layout_is_known
from backends.native.executor import executor
from backends.native.library import counters
from backends.native.records import TEAM
from backends.native.team import team
from backends.native.units import known
from runtime import cli


def main(folder: Path) -> None:
    """Carry out jobs.json; the report goes to report.json."""
    jobs = json.loads((folder / "jobs.json").read_text())
    done = {job["name"]: _in_child(job, folder) if job["apart"] else _run(job, folder) for job in jobs}
    (folder / "report.json").write_text(json.dumps({"jobs": done, "machine": _machine()}))


def _machine() -> dict[str, Any]:
    """What the package says of this machine, and what it makes of this interpreter."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = cli.main(["target"])
    here = runtime.target()
    interpreter = ctypes.cast(ctypes.pythonapi.PyErr_CheckSignals, ctypes.c_void_p).value or 0
    return {
        **{field.name: getattr(here, field.name) for field in dataclasses.fields(here)},
        "features": sorted(here.features), "units": dict(here.units),
        "targets": {name: targets.named(name).missing_here for name in targets.names()},
        "command": said.getvalue() if status == 0 else "",
        "entry": layout_is_known(), "distance": abs(executor().worker_address - interpreter),
    }  # fmt: skip


def _run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Compile and run one; its outputs go to a file, and what else is to be known of it is the answer."""
    compiled, cached, chunks = counters.compiled, counters.cached, _chunks()
    with np.load(folder / f"{job['model']}.npz") as file:
        inputs = [file[str(number)] for number in range(len(file.files))]
    precision = job["precision"]
    if precision and precision.endswith(".npz"):
        precision = runtime.Policy.load(folder / precision)
    program = runtime.compile(folder / f"{job['model']}.onnx", precision=precision, threads=job["threads"])
    runs = [program(*inputs) for _ in range(job["runs"])]
    outputs = [run if isinstance(run, tuple) else (run,) for run in runs]
    np.savez(folder / f"{job['name']}.out.npz", *outputs[0])
    rows = program.ledger()
    units = {row.unit for row in rows}
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "in_order": all(unit.in_order for unit in known(runtime.target()) if unit.name in units),
        "steady": all(np.array_equal(a, b) for run in outputs[1:] for a, b in zip(run, outputs[0], strict=True)),
        "compiled": counters.compiled - compiled, "cached": counters.cached - cached,
        "chunks": _chunks() - chunks,
    }  # fmt: skip


def _chunks() -> int:
    """How many chunks of work other threads have done."""
    return ctypes.c_int64.from_address(team.address + 8 * TEAM.index["finished"]).value


def _in_child(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """As `_run`, in a process that ends with it: what it compiled, this one has not."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(_run(job, folder)).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"job {job['name']}: the child ended with status {status}")
    return json.loads(said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
