"""Plans: what remains to be computed about a run of kernel calls once the sizes are numbers.

A Segment is a run of calls without a cut, with everything about it that no size changes; a Plan is a Segment for
given sizes: argument blocks, arena offsets and the step list, in one array of words that native code walks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from backends.native.kernel import SLOT_ABSOLUTE, SLOT_ARENA, NativeKernel
from backends.native.memory import ArenaLayout, align, aligned_empty
from backends.native.records import PLAN, STEP
from backends.native.sizes import SizeTable
from backends.native.walker import MAX_CHUNKS, MEASURED_RUNS
from compiler.dims import Size
from compiler.kernels import Buffer, KernelCall, View

if TYPE_CHECKING:
    from backends.native.blocking import Blocking
    from backends.native.gemm import GemmKernel

CHUNK_NS = 2_500  # the least work a kernel makes a chunk of its own; first estimates count chunks


@dataclass(frozen=True)
class PlannedCall:
    """A kernel call ready to be planned: weights packed, code loaded. `counter` is the address of its ledger count."""

    call: KernelCall
    kernel: NativeKernel
    address: int
    counter: int


@dataclass(frozen=True)
class Operand:
    """In an argument template: where a call puts the two words of its operand `number`, reads before writes."""

    number: int


@dataclass(frozen=True)
class ArgumentTemplate:
    """Arguments of every call of one likeness."""

    words: tuple[int | Operand, ...]
    chunks: int
    scratch: int


@dataclass(eq=False)
class Plan:
    """A segment for given sizes. `words` starts with the PLAN record; `kept` are objects whose addresses it holds."""

    words: np.ndarray
    address: int
    kept: tuple[object, ...]
    places: tuple[tuple[str, ...], ...]  # for each step, the imported nodes it carries out

    @property
    def memory(self) -> int:
        """Bytes of arena a run needs: temporaries, then scratch for each thread."""
        return PLAN.read(self.words, "bytes")

    @property
    def threads(self) -> int:
        """Threads a run can use."""
        return PLAN.read(self.words, "threads")


class Cutter(Protocol):
    """Says which products of a plan are cut in another way than their kernels would."""

    def cuts(
        self, calls: Sequence[PlannedCall], likenesses: Sequence[object], size: Callable[[Size], int], threads: int
    ) -> Mapping[object, Blocking]:
        """Other cuts, by the likeness of calls with a GemmSpec."""


@dataclass(eq=False)
class Segment:
    """Calls between two cuts. `slots` numbers the buffers a run brings; `addresses` are those of weights. `tuned` holds
    the counters of calls that some plan has cut as `cutter` says."""

    calls: Sequence[PlannedCall]
    buffers: Mapping[str, Buffer]
    slots: Mapping[str, int]
    addresses: Mapping[str, int]
    contents: Mapping[str, Any]
    threads: int
    cutter: Cutter | None = None

    def __post_init__(self) -> None:
        self.tuned: set[int] = set()
        calls = [planned.call for planned in self.calls]
        views = [view for call in calls for view in (*call.reads, *call.writes)]
        used = {view.buffer for view in views}
        self.filled = [name for name in used if name in self.buffers and self.buffers[name].role == "sizes"]
        temporaries = {
            name: self.buffers[name]
            for name in used
            if name in self.buffers and self.buffers[name].role == "temp" and name not in self.slots
        }
        self.layout = ArenaLayout(calls, temporaries)
        self.likenesses = [_likeness(planned) for planned in self.calls]
        self.temporaries = temporaries
        self.table = SizeTable(
            [
                *(size for view in views for size in (*view.shape, *view.strides, view.offset)),
                *(size for call in calls for size in call.params),
                *(buffer.elements for buffer in temporaries.values()),
                *(size for name in self.filled for size in self._symbolic(name)),
            ]
        )

    def plan(self, sizes: Mapping[str, int], late: Mapping[str, np.ndarray]) -> Plan:
        """The plan for named sizes. `late` holds contents of size buffers that only became known while planning."""
        size = self.table.under(sizes)
        bytes_of = {name: size(buffer.elements) * buffer.dtype.bytes for name, buffer in self.temporaries.items()}
        offsets, arena = self.layout.offsets(bytes_of)
        bases: dict[str, tuple[int, int]] = {name: (slot, 0) for name, slot in self.slots.items()}
        bases.update((name, (SLOT_ABSOLUTE, address)) for name, address in self.addresses.items())
        bases.update((name, (SLOT_ARENA, offset)) for name, offset in offsets.items())
        kept = tuple(self._fill(name, size, late) for name in self.filled)
        bases.update((name, (SLOT_ABSOLUTE, array.ctypes.data)) for name, array in zip(self.filled, kept, strict=True))
        cuts = self.cutter.cuts(self.calls, self.likenesses, size, self.threads) if self.cutter else {}
        self.tuned.update(
            p.counter for p, likeness in zip(self.calls, self.likenesses, strict=True) if likeness in cuts
        )
        blocks, starts, chunks, scratch = self._blocks(size, bases, cuts)
        return self._assemble(blocks, starts, chunks, arena, align(scratch), kept)

    def _fill(self, name: str, size: Callable[[Size], int], late: Mapping[str, np.ndarray]) -> np.ndarray:
        dtype = self.buffers[name].dtype.numpy
        if name in late:
            return np.array(late[name], dtype).reshape(-1)
        return np.array([size(item) for item in self._symbolic(name)], dtype)

    def _symbolic(self, name: str) -> list[Size]:
        """The contents of a size buffer where symbols say them."""
        contents = self.contents[name]
        return [] if isinstance(contents, str) else list(np.asarray(contents, object).flat)

    def late_contents(self, results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The contents of the other size buffers, from late results."""
        named = {name: self.contents[name] for name in self.filled}
        return {name: results[source] for name, source in named.items() if isinstance(source, str)}

    def _blocks(
        self, size: Callable[[Size], int], bases: Mapping[str, tuple[int, int]], cuts: Mapping[object, Blocking]
    ) -> tuple[list[int], list[int], list[int], int]:
        """All argument words, where each call's begin, chunks of each call, scratch bytes a thread."""
        words: list[int] = []
        starts: list[int] = []
        chunks: list[int] = []
        scratch = 0
        known: dict[object, ArgumentTemplate] = {}
        for planned, likeness in zip(self.calls, self.likenesses, strict=True):
            arguments = known.get(likeness)
            if arguments is None:
                arguments = known[likeness] = _template(planned, size, self.threads, cuts.get(likeness))
            starts.append(len(words))
            chunks.append(arguments.chunks)
            scratch = max(scratch, arguments.scratch)
            views = (*planned.call.reads, *planned.call.writes)
            for word in arguments.words:
                if isinstance(word, Operand):
                    view = views[word.number]
                    slot, offset = bases[view.buffer]
                    words += (slot, offset + size(view.offset) * view.dtype.bytes)
                else:
                    words.append(word)
        return words, starts, chunks, scratch

    def _assemble(
        self,
        blocks: list[int],
        starts: list[int],
        chunks: list[int],
        arena: int,
        scratch: int,
        kept: tuple[np.ndarray, ...],
    ) -> Plan:
        steps = PLAN.words
        arguments = steps + STEP.words * len(self.calls)
        words = aligned_empty(8 * (arguments + len(blocks))).view(np.int64)
        words[:arguments] = 0
        words[arguments:] = blocks
        address = words.ctypes.data
        shared = max(chunks, default=1) > 1
        threads = self.threads if shared else 1
        estimate = CHUNK_NS * sum(count for count in chunks if count > 1)
        PLAN.write(
            words, 0, steps=address + 8 * steps, count=len(self.calls), arena=arena, scratch=scratch, threads=threads,
            bytes=arena + scratch * threads, work=estimate, wall=estimate, unmeasured=MEASURED_RUNS,
        )  # fmt: skip
        if self.calls:
            table = words[steps:arguments].reshape(-1, STEP.words)
            table[:, STEP.index["kernel"]] = [planned.address for planned in self.calls]
            table[:, STEP.index["args"]] = [address + 8 * (arguments + start) for start in starts]
            table[:, STEP.index["chunks"]] = chunks
            table[:, STEP.index["counter"]] = [planned.counter for planned in self.calls]
        return Plan(words, address, kept, tuple(planned.call.where for planned in self.calls))


def _likeness(planned: PlannedCall) -> object:
    """Calls of equal likeness get equal argument blocks but for their addresses: layers of one model share one."""
    call = planned.call
    views = (*call.reads, *call.writes)
    names = [view.buffer for view in views]
    layouts = tuple((view.shape, view.strides, view.offset, names.index(view.buffer)) for view in views)
    return (planned.kernel.name, call.spec, layouts, call.params)


def _template(
    planned: PlannedCall, size: Callable[[Size], int], threads: int, cut: Blocking | None
) -> ArgumentTemplate:
    """A call's arguments with its operands' numbers in place of its views."""
    call = planned.call
    if cut is None:
        arguments = planned.kernel.arguments(call, size, threads)
    else:
        arguments = cast("GemmKernel", planned.kernel).arguments(call, size, threads, cut)
    assert 0 <= arguments.chunks <= MAX_CHUNKS, f"{planned.kernel.name}: {arguments.chunks} chunks"
    views = (*call.reads, *call.writes)
    words = tuple(Operand(views.index(word)) if isinstance(word, View) else word for word in arguments.words)
    return ArgumentTemplate(words, arguments.chunks, arguments.scratch)
