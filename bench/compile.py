"""`python -m bench compile`: from an ONNX file to a first result, cold and cached, a process each."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.contestants import present
from bench.report import Report, seconds, table
from bench.workload import WORKLOADS, load

# Runs in a fresh interpreter. Imports come first: they are paid once a process, not once a model.
STEPS = {
    "sansuan": """
import runtime; runtime.compile; start = time.perf_counter()
program = runtime.compile(path, threads=threads, cache=cache); compiled = time.perf_counter(); program(*arrays)
""",
    "onnxruntime": """
import onnxruntime as ort; options = ort.SessionOptions(); options.intra_op_num_threads = threads
options.log_severity_level = 3; start = time.perf_counter()
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]); compiled = time.perf_counter()
session.run(None, dict(zip([value.name for value in session.get_inputs()], arrays)))
""",
    "openvino": """
import openvino as ov; core = ov.Core(); start = time.perf_counter()
model = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
compiled = time.perf_counter(); model(arrays)
""",
}
PROGRAM = """
import json, sys, time
import numpy as np
def peak_memory():  # ru_maxrss would start from the parent's: it survives exec
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
path, inputs, threads, cache = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "cached"
arrays = [inputs[name] for name in inputs.files]
before = peak_memory()
{steps}
done = time.perf_counter()
print(json.dumps({{"compile": compiled - start, "first": done - start, "memory": peak_memory() - before}}))
"""


def once(contestant: str, model: Path, inputs: Path, threads: int, cache: str) -> dict[str, float]:
    """Seconds to compile, seconds to the first result, and bytes of peak memory growth, in a fresh process."""
    code = PROGRAM.format(steps=STEPS[contestant])
    command = [sys.executable, "-c", code, str(model), str(inputs), str(threads), cache]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default="bert-base,resnet50,mlp", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--contestants", default=",".join(STEPS), help="default: %(default)s")
    parser.set_defaults(rounds=3)


def run(options: argparse.Namespace, report: Report) -> None:
    """Every model, contestant and cache state, `rounds` processes each; medians."""
    names = present(options.contestants)
    forms = [(name, cache) for name in names for cache in (("cold", "cached") if name == "sansuan" else ("cold",))]
    for model in options.models.split(","):
        work = load(model, dynamic=True)
        with tempfile.TemporaryDirectory() as folder:
            path, inputs = Path(folder, "model.onnx"), Path(folder, "inputs.npz")
            path.write_bytes(work.onnx)
            np.savez(inputs, *work.arrays)
            for threads in options.threads:
                rows = []
                for name, cache in forms:
                    if cache == "cached":
                        once(name, path, inputs, threads, cache)
                    found = [once(name, path, inputs, threads, cache) for _ in range(options.rounds)]
                    medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
                    report.result(model=model, threads=threads, contestant=name, cache=cache, **medians)
                    times = [seconds(medians["compile"]), seconds(medians["first"])]
                    rows.append([f"{name} {cache}", *times, f"{medians['memory'] / 1e6:.0f} MB"])
                size = f"{len(work.onnx) / 1e6:.0f} MB"
                title = f"\n{model} ({size} ONNX, batch and sequence open), {threads} threads"
                print(table(title, ["", "compile", "first result", "peak memory"], rows), flush=True)
