"""Families in processes of their own kind: a crash or a time-out costs one result."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.coverage.measure import Result

SECONDS = 150.0  # for one family from one front end
FAMILIES_EACH = 24  # then a worker is replaced, and what torch and transformers keep goes with it

Job = tuple[str, str, str]  # family, kind, front end


class _Worker:
    """A process that answers jobs, and the job it is at."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.deadline = 0.0
        self.done = 0

    def begin(self, job: Job) -> None:
        self.job, self.deadline = job, time.monotonic() + SECONDS
        self.pipe.send(job)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(jobs: Sequence[Job], workers: int = 2) -> Iterator[Result]:
    """Results of the jobs as they come."""
    waiting, busy, idle = list(jobs), [], []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker()
                worker.begin(waiting.pop(0))
                busy.append(worker)
            wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in list(busy):
                if (result := _answer(worker)) is not None:
                    busy.remove(worker)
                    if worker.process.is_alive() and worker.done < FAMILIES_EACH:
                        idle.append(worker)
                    else:
                        worker.end()
                    yield result
    finally:
        for worker in (*busy, *idle):
            worker.end()


def _answer(worker: _Worker) -> Result | None:
    """What the worker found, or that it died or takes too long; None while it works."""
    assert worker.job is not None
    family, kind, front_end = worker.job
    try:
        if worker.pipe.poll():
            worker.done += 1
            return worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        return Result(family, kind, front_end, failure=f"the process died: exit code {worker.process.exitcode}")
    if time.monotonic() < worker.deadline:
        return None
    worker.process.kill()
    worker.process.join()
    return Result(family, kind, front_end, failure=f"took more than {SECONDS:.0f} s", seconds=SECONDS)


def _serve(pipe: Connection) -> None:
    # What torch's exporter prints goes nowhere: results are told by the parent, and a failure's text is in them.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error")
    import torch

    from tests.coverage.families import builders
    from tests.coverage.measure import measure

    torch.set_num_threads(1)
    known = builders()
    while True:
        try:
            job: Any = pipe.recv()
        except EOFError:
            return
        family, _, front_end = job
        kind, build = known[family]
        pipe.send(measure(family, kind, build, front_end))
