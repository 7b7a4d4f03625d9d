"""What emitted machine code is made of: functions, their loops, and how many instructions of what kind a pass takes.

Reads LLVM's assembler text of x86-64 and of Arm, so it works for every target, whether this machine runs it or not. A
*pass* through a function or a loop is the path with the fewest instructions that visits what is asked for; loops on the
way are counted by themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

from llvmlite import ir

from backends.native.jit import optimized, target_machine
from backends.native.kernel import NativeKernel
from backends.native.target import Target

TILE_BYTES = 1024
PRODUCTS = re.compile(
    r"tdp\w+|vfn?m(add|sub)\w+|vdpbf16ps|v?pdp[bw]\w+|vpmaddwd|vpmulld|vpmullq"
    r"|[bf]?[fsu]*mop[as]|fmla|mla|[su]dot|us?mmla|smmla|bfmlal[bt]"
)
_LABEL, _FUNCTION = re.compile(r"(\.L\w+):"), re.compile(r"([A-Za-z_]\w*):")
_BRANCH = re.compile(r"(j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")
_ALWAYS = re.compile(r"(jmp|b|ret\w*)\b(?!\.)")
_X86_BYTES = (("%zmm", 64), ("%ymm", 32), ("%xmm", 16), ("%tmm", TILE_BYTES))
_WIDE = re.compile(r"%[xyz]mm|%k\d|\b[zpv]\d+\.|\b[zq]\d+\b|\bza\d*")


@dataclass(frozen=True)
class Mix:
    """Numbers of instructions: all, multiplications, other work on vectors, loads, stores and the bytes they move,
    prefetches to read and to write."""

    instructions: float = 0
    products: float = 0
    vectors: float = 0
    loads: float = 0
    stores: float = 0
    load_bytes: float = 0
    store_bytes: float = 0
    prefetches: float = 0
    expected: float = 0

    def __add__(self, other: Mix) -> Mix:
        return Mix(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Mix:
        return Mix(*(times * getattr(self, f.name) for f in fields(self)))


def mix_of(lines: Iterable[str], streaming: int = 0) -> Mix:
    """What instructions are; `streaming`: bytes of a scalable register."""
    return sum((_classify(line, streaming) for line in lines), Mix())


def _classify(line: str, streaming: int) -> Mix:
    name, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
    if name.startswith(("prefetch", "prf")):
        writes = name == "prefetchw" or "pst" in rest
        return Mix(1, prefetches=1, expected=int(writes))
    if PRODUCTS.fullmatch(name):
        loads = "(" in rest
        return Mix(1, 1, loads=int(loads), load_bytes=_bytes(name, rest, streaming) if loads else 0)
    if name.startswith(("ld", "st")) and "[" in rest:
        size = _bytes(name, rest, streaming)
        return Mix(1, loads=1, load_bytes=size) if name.startswith("ld") else Mix(1, stores=1, store_bytes=size)
    if name.startswith(("lea", "nop")) or "(" not in rest:
        pushes, pops = name.startswith(("push", "call")), name.startswith(("pop", "ret"))
        vectors = int(bool(_WIDE.search(rest)) and not name.startswith(("tile", "zero")))
        moved = 8 * (pushes + pops)
        return Mix(1, 0, vectors, int(pops), int(pushes), moved * pops, moved * pushes)
    size = _bytes(name, rest, streaming)
    moves = name.startswith(("mov", "vmov", "vpmov", "tile", "vbroadcast", "vpbroadcast", "set", "vextract", "ldtile"))
    vectors = int(bool(_WIDE.search(rest)) and not moves)
    if rest.rstrip().endswith((")", "}")) and rest.rstrip().rpartition(",")[0] and _is_destination(name, rest):
        reads = 0 if moves else 1
        return Mix(1, 0, vectors, reads, 1, size * reads, size)
    return Mix(1, 0, vectors, 1, 0, size)


def _is_destination(name: str, rest: str) -> bool:
    """Whether the last operand (AT&T order: what is written) is memory, and written."""
    last = re.sub(r"\s*\{[^}]*\}", "", rest).strip()
    return last.endswith(")") and not name.startswith(("cmp", "test", "bt", "vucomi", "imul"))


def _bytes(name: str, rest: str, streaming: int) -> int:
    if "[" in rest:  # Arm
        registers = rest.partition("[")[0] if not re.search(r"\bza", rest) else "z0"
        if lane := re.search(r"\.([bhsd]) ?\}\[", rest):
            return {"b": 1, "h": 2, "s": 4, "d": 8}[lane.group(1)]
        count = len(re.findall(r"\b[zvqdsxwbh]\d+", registers)) or 1
        if several := re.search(r"\bz(\d+)\.\w - z(\d+)", registers):
            count = int(several.group(2)) - int(several.group(1)) + 1
        if re.search(r"\bz\d", registers):
            return count * streaming
        kind = re.search(r"\b([vqdsxw])\d+", registers)
        return count * {"v": 16, "q": 16, "d": 8, "x": 8}.get(kind.group(1) if kind else "x", 4)
    if "broadcast" in name or "{1to" in rest:
        return 8 if name.endswith(("q", "pd", "sd")) else {"b": 1, "w": 2}.get(name[-1], 4)
    return next((size for register, size in _X86_BYTES if register in rest), 8)


@dataclass
class Block:
    """Instructions that run one after the other, and where they may go on."""

    label: str
    lines: list[str] = field(default_factory=list)
    following: list[int] = field(default_factory=list)


Visit = Callable[[Block], bool]


def finishes(block: Block) -> bool:
    """Whether it is on the way to results that a micro-kernel finishes itself: there it asks for their lines, or takes
    rows out of tiles."""
    return any(re.match(r"prefetchw|prfm\tpst|mova?\tz\d+\.\w, p\d+/m, za", line) for line in block.lines)


def resumes(block: Block) -> bool:
    """Whether it takes rows back into tiles that waited in memory."""
    return any(re.match(r"ld1[wd]\t\{ ?za", line) for line in block.lines)


def tile_rows(lines: Iterable[str]) -> int:
    """How many rows of each tile instructions move, at least 1."""
    named = Counter(name for line in lines for name in re.findall(r"za\d+h", line))
    return max(named.values(), default=1)


@dataclass(frozen=True)
class Loop:
    """A loop of a function, by the numbers of its blocks: the first, and all."""

    head: int
    body: frozenset[int]


class Function:
    """One function's blocks and loops. `streaming`: see mix_of."""

    def __init__(self, name: str, lines: Sequence[str], streaming: int = 0) -> None:
        self.name, self.streaming = name, streaming
        self.blocks = _blocks(lines)

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Innermost first."""
        dominators, found = self._dominators(), dict[int, set[int]]()
        for latch, block in enumerate(self.blocks):
            for head in block.following:
                if latch in dominators and head in dominators[latch]:
                    found.setdefault(head, {head}).update(self._reaching(latch, head))
        return tuple(sorted((Loop(head, frozenset(body)) for head, body in found.items()), key=lambda x: len(x.body)))

    def innermost(self) -> tuple[Loop, ...]:
        """Loops with no loop inside."""
        return tuple(loop for loop in self.loops if not any(o.body < loop.body for o in self.loops))

    def lines(self, loop: Loop) -> list[str]:
        """The instructions of a loop, in the order of the text."""
        return [line for number in sorted(loop.body) for line in self.blocks[number].lines]

    def around(self, loop: Loop | None) -> Loop | None:
        """The loop a loop is in."""
        return next((o for o in self.loops if loop is not None and loop.body < o.body), None)

    def holding(self, text: str) -> Loop | None:
        """The innermost loop with an instruction that contains `text`."""
        return next((loop for loop in self.loops if any(text in line for line in self.lines(loop))), None)

    def product_loop(self) -> Loop | None:
        """The innermost loop with most products."""
        counts = {loop: mix_of(self.lines(loop), self.streaming).products for loop in self.innermost()}
        best = max(counts, key=lambda loop: counts[loop], default=None)
        return best if best is not None and counts[best] else None

    def once(self, loop: Loop | None = None, visits: Sequence[Visit] = ()) -> tuple[Mix, tuple[Loop, ...]]:
        """A pass through a loop, or (None) from the function's entry to its return, by way of as many of the blocks
        asked for as a path can: without the loops on the way, which come beside it, outermost ones."""
        inside = loop.body if loop else frozenset(range(len(self.blocks)))
        inner = [other for other in self.loops if other.body < inside and not (loop and other.head == loop.head)]
        nested = {number for other in inner for number in other.body}
        start = loop.head if loop else 0
        best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(start, 0): (0.0, ())}
        ends: dict[int, tuple[float, tuple[int, ...]]] = {}
        waiting = [(start, 0)]
        while waiting:
            number, seen = waiting.pop(0)
            length, path = best[number, seen]
            block = self.blocks[number]
            met = seen | sum(1 << i for i, visit in enumerate(visits) if visit(block))
            length, path = length + len(block.lines) + 1e-6, (*path, number)
            if any(o == start and loop for o in block.following) or (not block.following and not loop):
                ends[met] = min(ends.get(met, (float("inf"), ())), (length, path))
            for following in block.following:
                again = loop and following == start
                if following in inside and not again and length < best.get((following, met), (float("inf"), ()))[0]:
                    best[following, met] = length, path
                    waiting.append((following, met))
        _, path = ends[max(ends, key=lambda met: met.bit_count())]
        mix = sum((mix_of(self.blocks[number].lines, self.streaming) for number in path if number not in nested), Mix())
        outermost = [other for other in inner if not any(other.body < more.body for more in inner)]
        return mix, tuple(other for other in outermost if other.head in path)

    def _dominators(self) -> dict[int, set[int]]:
        before: dict[int, set[int]] = {number: set() for number in range(len(self.blocks))}
        for number, block in enumerate(self.blocks):
            for following in block.following:
                before[following].add(number)
        everything = set(before)
        found = {number: everything if number else {0} for number in before}
        changes = True
        while changes:
            changes = False
            for number in list(before)[1:]:
                ways = [found[other] for other in before[number]]
                now = {number} | (set.intersection(*ways) if ways else everything)
                changes |= now != found[number]
                found[number] = now
        return found

    def _reaching(self, latch: int, head: int) -> set[int]:
        found, waiting = {head, latch}, [latch] if latch != head else []
        while waiting:
            number = waiting.pop()
            for other, block in enumerate(self.blocks):
                if number in block.following and other not in found:
                    found.add(other)
                    waiting.append(other)
        return found


def _blocks(lines: Sequence[str]) -> list[Block]:
    blocks = [Block("")]
    ended: set[int] = set()
    for line in lines:
        if label := _LABEL.fullmatch(line):
            if blocks[-1].lines or blocks[-1].label:
                blocks.append(Block(label.group(1)))
            else:
                blocks[-1].label = label.group(1)
            continue
        blocks[-1].lines.append(line)
        if _BRANCH.fullmatch(line) or _ALWAYS.match(line):
            if _ALWAYS.match(line):
                ended.add(len(blocks) - 1)
            blocks.append(Block(""))
    places = {block.label: number for number, block in enumerate(blocks) if block.label}
    for number, block in enumerate(blocks):
        for branch in filter(None, (_BRANCH.fullmatch(line) for line in block.lines[-1:])):
            if branch.group(2) in places:
                block.following.append(places[branch.group(2)])
        if number not in ended and number + 1 < len(blocks):
            block.following.append(number + 1)
    return blocks


def functions(text: str, streaming: int = 0) -> dict[str, Function]:
    """The functions of LLVM's assembler text by name."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for raw in text.splitlines():
        line = re.split(r"\s*(?:#(?!\d|-)|//)", raw)[0].rstrip()
        if name := _FUNCTION.fullmatch(line):
            current = found.setdefault(name.group(1), [])
        elif line.startswith(".Lfunc_end"):
            current = None
        elif current is not None and line and not line.lstrip().startswith(".") | bool(_LABEL.fullmatch(line)):
            current.append(line.strip())
        elif current is not None and _LABEL.fullmatch(line):
            current.append(line)
    return {name: Function(name, lines, streaming) for name, lines in found.items()}


def emitted(kernel: NativeKernel, target: Target) -> dict[str, Function]:
    """The functions of a kernel as they ship for `target`."""
    module = ir.Module(kernel.name)
    kernel.emit(module)
    passes = getattr(kernel, "passes", 0)
    text = target_machine(target).emit_assembly(optimized(module, target, passes))
    return functions(text, getattr(target, "streaming", 0) or target.vector)
