"""Results of numbered tiles, finished while the next tiles multiply.

Where a machine multiplies tiles beside everything else it does, a micro-kernel leaves its tiles in scratch and notes
them in the frame. The next one works on them between runs of k-steps: what reorders instructions then has products to
make while rows are finished, as Intel advises ("Intel 64 and IA-32 Architectures Optimization Reference Manual",
chapter on matrix extensions). What is left when it has multiplied it finishes before it leaves its own.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.epilogue import ROWS_TOGETHER
from backends.native.frame import FRAME, Frame, move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import Values, counted_loop, smaller

RUN = 2  # k-steps between rows that are finished: what stands between two runs has to fit a machine's window
Steps = Callable[[ir.Value, ir.Value, Values], Values]
_NOTED = ("late_tile", "late_pitch", "late_rows", "late_columns", "late_m", "late_n")


class Deferred:
    """What a kernel has noted. `finish` is its epilogue: see Epilogue.define."""

    def __init__(self, module: ir.Module, name: str, finish: ir.Function) -> None:
        self.finish = finish
        self.advance = self._define(module, name)

    def nothing(self, frame: Frame) -> None:
        """Begin with nothing noted."""
        frame.set("late_rows", I64(0))

    def note(self, frame: Frame, tile: ir.Value, *rest: ir.Value) -> None:
        """That the tile at `tile` is to be finished; `rest` are the epilogue's further arguments."""
        for field, value in zip(_NOTED, (frame.builder.ptrtoint(tile, I64), *rest), strict=True):
            frame.set(field, value)

    def all(self, frame: Frame) -> None:
        """Finish what is noted."""
        builder, rows = frame.builder, frame.get("late_rows")
        with builder.if_then(builder.icmp_signed(">", rows, I64(0))):
            builder.call(self.advance, [frame.words, rows])

    def between(self, frame: Frame, length: ir.Value, depth: int, carried: Values, steps: Steps) -> Values:
        """`steps(start, stop, carried)` over k from 0 to `length`, `depth` a step, in runs between which rows are
        finished, in equal shares; in one where nothing is noted. What is left of them is finished behind."""
        builder, rows = frame.builder, frame.get("late_rows")
        some, run = builder.icmp_signed(">", rows, I64(0)), I64(RUN * depth)
        least = builder.select(builder.icmp_signed(">", length, run), length, run)
        chunk = builder.select(some, run, least)
        runs = builder.udiv(builder.add(least, builder.sub(run, I64(1))), run)
        share = builder.udiv(builder.add(rows, builder.sub(runs, I64(1))), runs)
        share = builder.and_(builder.add(share, I64(ROWS_TOGETHER - 1)), I64(-ROWS_TOGETHER))

        def one(start: ir.Value, carried: Values) -> Values:
            after = steps(start, smaller(builder, length, builder.add(start, chunk)), carried)
            with builder.if_then(some):
                builder.call(self.advance, [frame.words, share])
            return after

        carried = counted_loop(builder, I64(0), length, chunk, carried, one)
        self.all(frame)
        return carried

    def _define(self, module: ir.Module, name: str) -> ir.Function:
        """void name(frame, most): finish at most so many rows of what is noted."""
        function, builder = define_helper(module, name, [FRAME, I64])
        words, most = function.args
        frame = Frame(builder, words)
        tile, pitch, rows, columns, m, n = (frame.get(field) for field in _NOTED)
        count = smaller(builder, most, rows)
        builder.call(self.finish, [words, builder.inttoptr(tile, POINTER), pitch, count, columns, m, n])
        moved = move(builder, builder.inttoptr(tile, POINTER), builder.mul(count, pitch))
        frame.set("late_tile", builder.ptrtoint(moved, I64))
        frame.set("late_rows", builder.sub(rows, count))
        frame.set("late_m", builder.add(m, count))
        builder.ret_void()
        return function
