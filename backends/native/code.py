"""Structured native code for the executor itself: records, variables, loops and branches over an IRBuilder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from llvmlite import ir

from backends.native.kernel import I64, POINTER
from backends.native.records import Record

I1 = ir.IntType(1)
VOID = ir.VoidType()
WORDS = I64.as_pointer()


class Code:
    """A function under construction. Every value is an i64, i1 or i8* unless said otherwise."""

    def __init__(self, function: ir.Function) -> None:
        self.module, self.function = function.module, function
        self.entry = function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.entry)

    @classmethod
    def define(cls, module: ir.Module, name: str, result: ir.Type, *arguments: ir.Type) -> Code:
        """Begin a new function."""
        function = ir.Function(module, ir.FunctionType(result, arguments), name)
        function.attributes.add("nounwind")
        return cls(function)

    @property
    def arguments(self) -> tuple[ir.Argument, ...]:
        """The function's arguments."""
        return self.function.args

    def get(self, record: ir.Value, layout: Record, field: str) -> ir.Value:
        """A field of a record."""
        return self.b.load(self.field(record, layout, field))

    def set(self, record: ir.Value, layout: Record, field: str, value: ir.Value) -> None:
        """Store to a field of a record."""
        self.b.store(self.word(value), self.field(record, layout, field))

    def field(self, record: ir.Value, layout: Record, field: str) -> ir.Value:
        """The address of a field."""
        return self.at(record, I64(layout.index[field]))

    def at(self, base: ir.Value, word: ir.Value) -> ir.Value:
        """The address of word number `word` after `base`."""
        return self.b.gep(self.pointer(base, WORDS), [word])

    def load(self, base: ir.Value, word: ir.Value) -> ir.Value:
        """Word number `word` after `base`."""
        return self.b.load(self.at(base, word))

    def pointer(self, value: ir.Value, type: ir.Type = POINTER) -> ir.Value:
        """A word or pointer as a pointer of that type."""
        if isinstance(value.type, ir.PointerType):
            return value if value.type == type else self.b.bitcast(value, type)
        return self.b.inttoptr(value, type)

    def word(self, value: ir.Value) -> ir.Value:
        """A pointer as a word."""
        return self.b.ptrtoint(value, I64) if isinstance(value.type, ir.PointerType) else value

    def variable(self, initial: ir.Value) -> Variable:
        """A local variable."""
        with self.b.goto_block(self.entry):
            self.b.position_at_start(self.entry)
            slot = self.b.alloca(initial.type)
        self.b.store(initial, slot)
        return Variable(self.b, slot)

    @contextmanager
    def loop(self) -> Iterator[Callable[[ir.Value], None]]:
        """Repeat the body; the callable given leaves the loop when its condition holds."""
        body, end = self.function.append_basic_block("loop"), self.function.append_basic_block("end")
        self.b.branch(body)
        self.b.position_at_end(body)

        def leave_if(condition: ir.Value) -> None:
            following = self.function.append_basic_block("next")
            self.b.cbranch(condition, end, following)
            self.b.position_at_end(following)

        yield leave_if
        if not self.b.block.is_terminated:
            self.b.branch(body)
        self.b.position_at_end(end)

    @contextmanager
    def count(self, total: ir.Value) -> Iterator[ir.Value]:
        """Repeat the body for 0 <= i < total."""
        i = self.variable(I64(0))
        with self.loop() as leave_if:
            now = i.get()
            leave_if(self.b.icmp_signed(">=", now, total))
            yield now
            i.set(self.b.add(now, I64(1)))

    def when(self, condition: ir.Value, likely: bool | None = None) -> AbstractContextManager[ir.Block]:
        """A context whose body runs if the condition holds."""
        return self.b.if_then(condition, likely=likely)

    def call(self, name: str, result: ir.Type, *values: ir.Value, variadic: bool = False) -> ir.Value:
        """Call a function outside this module, declared by the types of its arguments."""
        found = self.module.globals.get(name)
        if found is None:
            types = [value.type for value in values]
            found = ir.Function(self.module, ir.FunctionType(result, types[:1] if variadic else types, variadic), name)
        return self.b.call(found, values)

    def call_address(self, address: ir.Value, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call the function at an address."""
        type = ir.FunctionType(result, [value.type for value in values])
        return self.b.call(self.pointer(address, type.as_pointer()), values)


class Variable:
    """A stack slot; optimisation turns it into registers."""

    def __init__(self, builder: ir.IRBuilder, slot: ir.Value) -> None:
        self.builder, self.address = builder, slot

    def get(self) -> ir.Value:
        """The value now."""
        return self.builder.load(self.address)

    def set(self, value: ir.Value) -> None:
        """Assign."""
        self.builder.store(value, self.address)
