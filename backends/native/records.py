"""Records that Python fills and native code reads: named 64-bit words."""

from __future__ import annotations

import numpy as np


class Record:
    """A layout: word number by field name, in order."""

    def __init__(self, *fields: str) -> None:
        self.index = {field: number for number, field in enumerate(fields)}
        self.words = len(fields)

    def new(self, **values: int) -> np.ndarray:
        """A record on its own, zero where not given."""
        array = np.zeros(self.words, np.int64)
        self.write(array, 0, **values)
        return array

    def write(self, array: np.ndarray, at: int, **values: int) -> None:
        """Set fields of the record that starts at word `at`."""
        for field, value in values.items():
            array[at + self.index[field]] = value

    def read(self, array: np.ndarray, field: str) -> int:
        """A field of the record an array starts with."""
        return int(array[self.index[field]])


# One kernel call: `counter` is the address of its ledger count.
STEP = Record("kernel", "args", "chunks", "counter")

# One planned segment. `bytes` of arena hold the temporaries (`arena`), then `scratch` for each of `threads` threads,
# the caller included. `work` is the time one thread would need and `wall` the time it takes, in ns, estimated until
# `unmeasured` runs have been timed. `owner` is the Python object to keep alive while the GIL is released. The rest
# describes operands for the native entry (see OPERAND).
PLAN = Record(
    "steps", "count", "bytes", "arena", "scratch", "threads", "work", "wall", "unmeasured", "owner",
    "inputs", "input_count", "outputs", "output_count",
)  # fmt: skip

# What the native entry checks of an operand and makes of an output: NumPy's descriptor, rank, address of the extents;
# flags it must have, address of its strides (0: the flags say it all), where its bytes begin and end, from its data on.
OPERAND = Record("descriptor", "rank", "extents", "flags", "strides", "low", "high")

# What the native entry of a program knows: the Python function to fall back to, the array the record lies in, NumPy's
# array type and PyArray_NewFromDescr, where to run, whether arrays to fill may follow the inputs, and the plans it can
# match calls to.
KNOWN_PLANS = 8
ENTRY = Record(
    "fallback", "itself", "array_type", "new_array", "arena", "team", "takes_outputs", "count", "plans",
    *(f"_plan{i}" for i in range(1, KNOWN_PLANS)),
)  # fmt: skip

# Memory for temporaries and scratch, one caller at a time.
ARENA = Record("busy", "base", "bytes")

# The thread team. `claim` is limit << 48 | low << 24 | high: chunks low..high-1 of `step` are free, for threads
# numbered below limit. `finished` counts the chunks workers have ended, ever; `run` counts runs. The rest describes
# the run: thread i's scratch is scratch + i * stride. `environment` holds the caller's floating point environment,
# `began` when the last run began.
TEAM = Record(
    "claim", *(f"_a{i}" for i in range(15)), "finished", *(f"_b{i}" for i in range(15)), "lock", "step", "run", "slots",
    "scratch", "stride", "stop", "workers", "records", "environment",
    "began",
)  # fmt: skip

# One worker, two cache lines apart from the next. `parked` is its futex, 1 while it sleeps or is about to; `number` is
# its thread number (the caller is 0); `avoids` the CPU it leaves to the caller, plus one; `allowed` and `mask` are CPU
# sets: what the process may use, and room for that without one.
WORKER = Record("parked", "avoids", "thread", "number", "team", "allowed", "mask", *(f"_{i}" for i in range(9)))

# What a run watches while it executes: `until` is when to look up next (0: never), `state` the thread state saved
# while the GIL is released, `interrupted` whether a signal handler raised.
WATCH = Record("until", "state", "interrupted")
