"""IR modules to machine code: object files that can be kept, and engines that load them into this process."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TypeVar

import llvmlite.binding as llvm
from llvmlite import ir

from backends.native.half import add_conversions
from backends.native.target import Target
from backends.native.units.scalable import hold_length
from compiler.errors import TargetError

Kept = TypeVar("Kept")
PASSES = 1  # for kernels, which are written in vectors already


@lru_cache(maxsize=1)
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target_machine(target: Target, opt: int = 2) -> llvm.TargetMachine:
    """LLVM's code generator for `target`."""
    _initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.feature_string, opt=opt, reloc="pic", codemodel="default"
    )


@lru_cache(maxsize=8)
def _machine(target: Target) -> llvm.TargetMachine:
    return target_machine(target)


def optimized(module: ir.Module, target: Target, passes: int = PASSES) -> llvm.ModuleRef:
    """`module` verified and run through `passes`: 0 none, 1 a few cheap ones, else LLVM's pipeline of that level."""
    machine = _machine(target)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    for function in module.functions if target.scale else ():
        if not function.is_declaration:
            hold_length(function, target.scale)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    if passes == 1:
        _tidy(parsed, machine)
    elif passes:
        options = llvm.create_pipeline_tuning_options(speed_level=passes)
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(parsed, builder)
    add_conversions(parsed, target)
    return parsed


def _tidy(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    # Kernels are vectorised, unrolled and hoisted as they should be. LLVM's O1 takes two to four times as long for code
    # that is no faster (GEMM, reductions: within 2%), and unrolling loops once more made a 3 x 3 depthwise convolution
    # twice as slow.
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    manager = llvm.create_new_function_pass_manager()
    manager.add_simplify_cfg_pass()
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    manager.add_dead_code_elimination_pass()
    for function in module.functions:
        if not function.is_declaration:
            manager.run(function, builder)


def compile_object(module: ir.Module, target: Target, passes: int = PASSES) -> bytes:
    """The object file of `module`. Works for any target LLVM knows, not only this machine's."""
    return bytes(_machine(target).emit_object(optimized(module, target, passes)))


def never_freed(thing: Kept) -> Kept:
    """Keep an object until the process ends: at exit Python frees what native code still refers to in any order."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing


class Engine:
    """Machine code loaded into this process, alive as long as this object.

    Raises TargetError when the target's architecture is not this machine's.
    """

    def __init__(self, target: Target) -> None:
        _initialize()
        if not target.runs_here:
            raise TargetError(
                f"target {target.name}: code for {target.triple} ({target.cpu}) cannot run on this machine, "
                f"which lacks {target.missing_here}; compile with target='host'"
            )
        self.target = target
        self.machine = target_machine(target)
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self.machine)

    def add(self, module: ir.Module, passes: int = PASSES) -> None:
        """Compile `module` into this engine; `passes` as in `optimized`."""
        self.engine.add_module(optimized(module, self.target, passes))
        self.engine.finalize_object()

    def add_objects(self, *objects: bytes) -> None:
        """Load object files."""
        for code in objects:
            self.engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self.engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of function `name`."""
        return self.engine.get_function_address(name)
