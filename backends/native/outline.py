"""Part of a function moved into one of its own: for code that runs in a mode of the machine which functions switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from backends.native.kernel import I8, I32, define_helper


def outlined(builder: ir.IRBuilder, name: str, attributes: Sequence[str], body: Callable[[], None]) -> None:
    """What `body` emits at `builder`, as a function of these attributes, and a call of it. What the code uses of the
    values of the function around travels in a record on that function's stack; it hands nothing back, and its stack
    slots are its own."""
    function, inner = define_helper(builder.module, name, [I8.as_pointer()], attributes)
    entry = inner.block
    start = function.append_basic_block("start")
    with builder.goto_block(start):
        body()
        builder.ret_void()
    captured = _captured(function)
    record = ir.LiteralStructType([value.type for value in captured])
    inner.position_at_end(entry)  # behind the stack slots that the body has put there
    fields = inner.bitcast(function.args[0], record.as_pointer())
    taken = {id(v): inner.load(inner.gep(fields, [I32(0), I32(i)])) for i, v in enumerate(captured)}
    inner.branch(start)
    _replace(function, taken)
    with builder.goto_entry_block():
        place = builder.alloca(record)
    for i, value in enumerate(captured):
        builder.store(value, builder.gep(place, [I32(0), I32(i)]))
    builder.call(function, [builder.bitcast(place, I8.as_pointer())])


def _used(instruction: ir.Instruction) -> list[ir.Value]:
    if isinstance(instruction, ir.PhiInstr):
        return [value for value, _ in instruction.incomings]
    return list(instruction.operands)


def _captured(function: ir.Function) -> list[ir.Value]:
    """The values of functions around that `function` uses, in order of their first use."""
    own = {id(value) for block in function.blocks for value in block.instructions} | set(map(id, function.args))
    found: dict[int, ir.Value] = {}
    for block in function.blocks:
        for instruction in block.instructions:
            for value in _used(instruction):
                if isinstance(value, ir.Instruction | ir.Argument) and id(value) not in own:
                    found.setdefault(id(value), value)
    return list(found.values())


def _replace(function: ir.Function, taken: dict[int, ir.Value]) -> None:
    for block in function.blocks:
        for instruction in block.instructions:
            if isinstance(instruction, ir.PhiInstr):
                pairs = instruction.incomings
                instruction.incomings = [(taken.get(id(value), value), source) for value, source in pairs]
            else:
                instruction.operands = [taken.get(id(value), value) for value in instruction.operands]
            match instruction:  # some print what they keep beside their operands
                case ir.GEPInstr():
                    instruction.pointer, *instruction.indices = instruction.operands
                case ir.ExtractValue():
                    (instruction.aggregate,) = instruction.operands
                case ir.InsertValue():
                    instruction.aggregate, instruction.value = instruction.operands
