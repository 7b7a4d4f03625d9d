"""Native code of the entry: a METH_FASTCALL builtin, one for all programs, told apart by their ENTRY record.

It serves exact NumPy arrays of the very dtype, shape and layout a known plan expects; anything else goes to the
program's Python function, so Python keeps every conversion and every error. Where the ENTRY says so, arrays to fill
may follow the inputs.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.code import VOID, WORDS, Code
from backends.native.kernel import I32, I64, POINTER, SLOT_ABSOLUTE, SLOT_FIRST_INPUT, SLOT_STATUS
from backends.native.records import ENTRY, OPERAND, PLAN, TEAM
from backends.native.walker import FINISHED, INTERRUPTED, TEAM_NS

# Words of CPython's and NumPy's objects that are read directly (checked by entry.layout_is_known).
TYPE, DATA, RANK, EXTENTS, STRIDES, DESCRIPTOR, FLAGS = 1, 2, 3, 4, 5, 7, 8
CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400
STATUS_WORDS = 8
_NULL = ir.Constant(POINTER, None)


def emit_entry(module: ir.Module, execute: ir.Function) -> ir.Function:
    """PyObject *entry(self, args, nargs, kwnames)."""
    matches = _emit_matches(module, _emit_apart(module))
    run = _emit_run(module, execute)
    code = Code.define(module, "entry", POINTER, WORDS, WORDS, I64, POINTER)
    itself, args, nargs, names = code.arguments
    b = code.b
    record = code.load(itself, I64(DATA))

    def fall_back() -> None:
        fallback = code.pointer(code.get(record, ENTRY, "fallback"))
        b.ret(code.call("PyObject_Vectorcall", POINTER, fallback, args, nargs, names))

    with code.when(b.icmp_unsigned("!=", names, _NULL), likely=False):
        fall_back()
    with code.count(code.get(record, ENTRY, "count")) as number:
        plan = code.pointer(code.load(code.field(record, ENTRY, "plans"), number), WORDS)
        with code.when(b.call(matches, [record, plan, args, nargs])):
            result = b.call(run, [record, plan, args, nargs])
            with code.when(b.icmp_unsigned("!=", result, code.pointer(itself))):  # itself: Python has to see to it
                b.ret(result)
            fall_back()
    fall_back()
    return code.function


def _emit_matches(module: ir.Module, apart: ir.Function) -> ir.Function:
    """i1 matches(record, plan, args, nargs): whether the arguments are what the plan is for."""
    no, yes = ir.Constant(ir.IntType(1), 0), ir.Constant(ir.IntType(1), 1)
    code = Code.define(module, "matches", ir.IntType(1), I64, WORDS, WORDS, I64)
    record, plan, args, nargs = code.arguments
    b = code.b

    def require(condition: ir.Value) -> None:
        with code.when(b.not_(condition), likely=False):
            b.ret(no)

    inputs, operands = code.get(plan, PLAN, "input_count"), code.get(plan, PLAN, "inputs")
    filling = b.icmp_signed("!=", nargs, inputs)
    with code.when(filling, likely=False):
        require(b.icmp_signed("!=", code.get(record, ENTRY, "takes_outputs"), I64(0)))
        require(b.icmp_signed("==", nargs, b.add(inputs, code.get(plan, PLAN, "output_count"))))
    array_type = code.get(record, ENTRY, "array_type")
    with code.count(nargs) as number:
        operand = _operand(code, operands, number)  # the outputs' records follow those of the inputs
        array = code.load(args, number)
        require(b.icmp_signed("==", code.load(array, I64(TYPE)), array_type))
        require(b.icmp_signed("==", code.load(array, I64(DESCRIPTOR)), code.get(operand, OPERAND, "descriptor")))
        rank, flags = _low(code, array, RANK), code.get(operand, OPERAND, "flags")
        require(b.icmp_signed("==", rank, code.get(operand, OPERAND, "rank")))
        require(b.icmp_signed("==", b.and_(_low(code, array, FLAGS), flags), flags))
        _compare(code, rank, code.load(array, I64(EXTENTS)), code.get(operand, OPERAND, "extents"), require)
        strides = code.get(operand, OPERAND, "strides")
        with code.when(b.icmp_signed("!=", strides, I64(0)), likely=False):
            _compare(code, rank, code.load(array, I64(STRIDES)), strides, require)
    with code.when(filling, likely=False):
        require(b.call(apart, [plan, args, nargs]))
    b.ret(yes)
    code.function.linkage = "internal"
    return code.function


def _compare(
    code: Code, count: ir.Value, found: ir.Value, expected: ir.Value, require: Callable[[ir.Value], None]
) -> None:
    """Require that many words at two addresses to be equal."""
    with code.count(count) as axis:
        require(code.b.icmp_signed("==", code.load(found, axis), code.load(expected, axis)))


def _emit_apart(module: ir.Module) -> ir.Function:
    """i1 apart(plan, args, nargs): whether no array to fill shares a byte with an input, as far as their ends tell."""
    no, yes = ir.Constant(ir.IntType(1), 0), ir.Constant(ir.IntType(1), 1)
    code = Code.define(module, "apart", ir.IntType(1), WORDS, WORDS, I64)
    plan, args, nargs = code.arguments
    b = code.b

    def ends(number: ir.Value) -> tuple[ir.Value, ir.Value]:
        operand = _operand(code, code.get(plan, PLAN, "inputs"), number)
        data = code.load(code.load(args, number), I64(DATA))
        return b.add(data, code.get(operand, OPERAND, "low")), b.add(data, code.get(operand, OPERAND, "high"))

    inputs = code.get(plan, PLAN, "input_count")
    with code.count(b.sub(nargs, inputs)) as number:
        low, high = ends(b.add(number, inputs))
        with code.count(inputs) as other:
            other_low, other_high = ends(other)
            overlap = b.and_(b.icmp_unsigned("<", other_low, high), b.icmp_unsigned("<", low, other_high))
            with code.when(overlap, likely=False):
                b.ret(no)
    b.ret(yes)
    code.function.linkage = "internal"
    return code.function


def _emit_run(module: ir.Module, execute: ir.Function) -> ir.Function:
    """PyObject *run(record, plan, args, nargs): a tuple of the outputs, fresh or given, null with an exception set, or
    the record's owner (the builtin's `self`) where Python has to take over."""
    code = Code.define(module, "run", POINTER, I64, WORDS, WORDS, I64)
    record, plan, args, nargs = code.arguments
    b = code.b
    team, elsewhere = code.get(record, ENTRY, "team"), code.pointer(code.get(record, ENTRY, "itself"))
    wanted = b.and_(
        b.icmp_signed(">", code.get(plan, PLAN, "threads"), I64(1)),
        b.icmp_signed(">=", code.get(plan, PLAN, "work"), I64(TEAM_NS)),
    )
    missing = b.icmp_signed("==", code.get(team, TEAM, "workers"), I64(0))
    with code.when(b.and_(wanted, missing), likely=False):
        b.ret(elsewhere)
    # Allocating may collect garbage, and a long run releases the GIL: another thread may make Python forget this plan.
    owner = code.pointer(code.get(plan, PLAN, "owner"))
    code.call("Py_IncRef", VOID, owner)
    inputs, outputs = code.get(plan, PLAN, "input_count"), code.get(plan, PLAN, "output_count")
    slots = _slots(code, inputs, outputs)
    with code.count(inputs) as number:
        data = code.load(code.load(args, number), I64(DATA))
        b.store(data, code.at(slots, b.add(number, I64(SLOT_FIRST_INPUT))))
    answer = code.variable(code.call("PyTuple_New", POINTER, outputs))
    first_output = code.at(slots, b.add(inputs, I64(SLOT_FIRST_INPUT)))
    with code.count(outputs) as number, code.when(b.icmp_unsigned("!=", answer.get(), _NULL), likely=True):
        array = _output(code, record, plan, args, nargs, number)
        with b.if_else(b.icmp_unsigned("!=", array, _NULL), likely=True) as (made, failed):
            with made:
                code.call("PyTuple_SetItem", I32, answer.get(), number, array)
                b.store(code.load(array, I64(DATA)), code.at(first_output, number))
            with failed:
                code.call("Py_DecRef", VOID, answer.get())
                answer.set(_NULL)
    with code.when(b.icmp_unsigned("!=", answer.get(), _NULL), likely=True):
        arena = code.pointer(code.get(record, ENTRY, "arena"), WORDS)
        result = b.call(execute, [plan, slots, arena, code.pointer(team, WORDS)])
        with code.when(b.icmp_signed("!=", result, I64(FINISHED)), likely=False):
            code.call("Py_DecRef", VOID, answer.get())
            answer.set(b.select(b.icmp_signed("==", result, I64(INTERRUPTED)), _NULL, elsewhere))
    code.call("Py_DecRef", VOID, owner)
    b.ret(answer.get())
    code.function.linkage = "internal"
    return code.function


def _output(
    code: Code, record: ir.Value, plan: ir.Value, args: ir.Value, nargs: ir.Value, number: ir.Value
) -> ir.Value:
    """A new reference to that output's array: the one given to fill, or a fresh one (null where there is no memory)."""
    b = code.b
    array, place = code.variable(_NULL), b.add(number, code.get(plan, PLAN, "input_count"))
    with b.if_else(b.icmp_signed("<", place, nargs), likely=False) as (given, fresh):
        with given:
            array.set(code.pointer(code.load(args, place)))
            code.call("Py_IncRef", VOID, array.get())
        with fresh:
            array.set(_new_array(code, record, _operand(code, code.get(plan, PLAN, "outputs"), number)))
    return array.get()


def _slots(code: Code, inputs: ir.Value, outputs: ir.Value) -> ir.Value:
    """A slot table on the stack, its status word after the slots."""
    b = code.b
    count = b.add(b.add(inputs, outputs), I64(SLOT_FIRST_INPUT))
    slots = b.alloca(I64, b.add(count, I64(STATUS_WORDS)))
    status = code.at(slots, count)
    b.store(I64(0), status)
    b.store(code.word(status), code.at(slots, I64(SLOT_STATUS)))
    b.store(I64(0), code.at(slots, I64(SLOT_ABSOLUTE)))
    return slots


def _new_array(code: Code, record: ir.Value, operand: ir.Value) -> ir.Value:
    """PyArray_NewFromDescr, which takes a reference to the descriptor."""
    descriptor = code.pointer(code.get(operand, OPERAND, "descriptor"))
    code.call("Py_IncRef", VOID, descriptor)
    rank, extents = code.get(operand, OPERAND, "rank"), code.pointer(code.get(operand, OPERAND, "extents"))
    return code.call_address(
        code.get(record, ENTRY, "new_array"), POINTER,
        code.pointer(code.get(record, ENTRY, "array_type")), descriptor, code.b.trunc(rank, I32), extents,
        _NULL, _NULL, I32(0), _NULL,
    )  # fmt: skip


def _operand(code: Code, operands: ir.Value, number: ir.Value) -> ir.Value:
    return code.pointer(code.b.add(operands, code.b.mul(number, I64(8 * OPERAND.words))), WORDS)


def _low(code: Code, object: ir.Value, word: int) -> ir.Value:
    """The C int that starts at that word of an object."""
    address = code.b.bitcast(code.at(object, I64(word)), I32.as_pointer())
    return code.b.sext(code.b.load(address), I64)
