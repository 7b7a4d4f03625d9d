"""From a lowered program to segments: select, compile and load kernels, pack weights, number the slots, cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from backends.native.cache import ObjectCache
from backends.native.kernel import SLOT_FIRST_INPUT, NativeKernel
from backends.native.library import library
from backends.native.plan import PlannedCall, Segment
from backends.native.prepack import Weights
from backends.native.select import select
from backends.native.target import Target
from backends.native.tuning import Tuning
from compiler.kernels import HostCall, KernelCall, Lowered, View
from compiler.types import TensorType


@dataclass(frozen=True, eq=False)
class Prepared:
    """A lowered program ready to be planned. `calls` are as lowered, each with its kernel (None for Host calls);
    `pieces` are segments and the Host calls between them, `host_counters` where those count their runs; `regridded`
    calls run on grids that tuning chose."""

    calls: tuple[tuple[KernelCall | HostCall, NativeKernel | None], ...]
    pieces: tuple[Segment | HostCall, ...]
    slots: Mapping[str, int]
    weights: Weights
    counters: np.ndarray
    host_counters: Mapping[HostCall, int]
    regridded: frozenset[KernelCall] = frozenset()

    @property
    def tuned(self) -> frozenset[int]:
        """The numbers of calls that run on a tuned grid, or have been cut as tuning says."""
        counters = {counter for piece in self.pieces if isinstance(piece, Segment) for counter in piece.tuned}
        cut = {(counter - self.counters.ctypes.data) // 8 for counter in counters}
        return frozenset(cut | {i for i, (call, _) in enumerate(self.calls) if call in self.regridded})


def prepare(
    lowered: Lowered, target: Target, threads: int, cache: ObjectCache | None, tuning: Tuning | None = None
) -> Prepared:
    """Compile what is not compiled yet and pack the weights. tuning: kernels and cuts to prefer. Raises TargetError if
    this machine lacks the target."""
    tuned = tuning.kernels(lowered.calls, threads) if tuning else {}
    kernels = [
        tuned.get(call) or select(call, target) if isinstance(call, KernelCall) else None for call in lowered.calls
    ]
    calls = tuple(zip(lowered.calls, kernels, strict=True))
    specs = [(kernel, call.spec) for call, kernel in calls if kernel is not None and isinstance(call, KernelCall)]
    weights = Weights(lowered.weights)
    packed = {call: weights.prepare(kernel, call) for call, kernel in calls if kernel and isinstance(call, KernelCall)}
    with ThreadPoolExecutor(threads) as pool:  # NumPy packs while LLVM compiles: both leave the GIL alone
        made = [pool.submit(weights.pack, name) for name in weights.wanted]
        addresses = library(target).load(specs, cache)
        for future in made:
            future.result()
    counters = np.zeros(max(len(calls), 1), np.int64)
    groups: list[list[PlannedCall] | HostCall] = [[]]
    host_counters: dict[HostCall, int] = {}
    for number, (call, kernel) in enumerate(calls):
        if isinstance(call, HostCall):
            groups += [call, []]
            host_counters[call] = number
            continue
        assert kernel is not None
        planned = PlannedCall(packed[call], kernel, addresses[kernel.name], counters.ctypes.data + 8 * number)
        last = groups[-1]
        assert isinstance(last, list)
        last.append(planned)
    slots = _slots(lowered, groups)
    weights.keep(_read_plainly(lowered, groups))
    pieces = tuple(
        group
        if isinstance(group, HostCall)
        else Segment(group, lowered.buffers, slots, weights.addresses, lowered.sizes, threads, tuning)
        for group in groups
        if isinstance(group, HostCall) or group or len(groups) == 1
    )
    return Prepared(calls, pieces, slots, weights, counters, host_counters, frozenset(tuned))


def _slots(lowered: Lowered, groups: Sequence[list[PlannedCall] | HostCall]) -> dict[str, int]:
    """A slot for each buffer a run brings: inputs, outputs, and what lives across a cut."""
    names = dict.fromkeys(value.name for value in lowered.inputs)
    names.update(dict.fromkeys(view.buffer for _, view in lowered.outputs if _brought(lowered, view.buffer)))
    seen: dict[str, int] = {}
    for position, group in enumerate(groups):
        for name in _buffers(group):
            if _brought(lowered, name) and (seen.setdefault(name, position) != position or isinstance(group, HostCall)):
                names[name] = None
    return {name: SLOT_FIRST_INPUT + number for number, name in enumerate(names)}


def _brought(lowered: Lowered, name: str) -> bool:
    return name in lowered.buffers and lowered.buffers[name].role in ("temp", "output")


def _buffers(group: list[PlannedCall] | HostCall) -> set[str]:
    if isinstance(group, HostCall):
        return {view.buffer for view in group.reads if view is not None} | {name for name in group.writes if name}
    return {view.buffer for planned in group for view in (*planned.call.reads, *planned.call.writes)}


def _read_plainly(lowered: Lowered, groups: Sequence[list[PlannedCall] | HostCall]) -> set[str]:
    """Weights that something reads as they are: kernels without a packed form, Host calls, late nodes, outputs."""
    names = {name for group in groups for name in _buffers(group)}
    names |= {value.name for node in lowered.late for value in node.inputs if value is not None}
    names |= {view.buffer for _, view in lowered.outputs}
    return names & lowered.weights.keys()


def is_simple(lowered: Lowered, pieces: Sequence[Segment | HostCall]) -> bool:
    """Whether input shapes alone decide everything: no Host call, every output a buffer of its own."""
    views: list[View] = [view for _, view in lowered.outputs]
    own = all(lowered.buffers[view.buffer].role == "output" for view in views)
    tensors = all(isinstance(v.type, TensorType) and v.type.shape is not None for v in lowered.inputs)
    host = any(isinstance(piece, HostCall) for piece in pieces)
    return not host and tensors and own and len({view.buffer for view in views}) == len(views)
