"""IR modules to machine code in this process."""

from __future__ import annotations

from functools import lru_cache

import llvmlite.binding as llvm
from llvmlite import ir

from backends.native.target import Target


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


class Engine:
    """Machine code of some modules, alive as long as this object."""

    def __init__(self, target: Target) -> None:
        self.machine = target_machine(target)
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self.machine)

    def add(self, module: ir.Module, passes: int = 1) -> None:
        """Compile `module` into this engine; `passes` is LLVM's pipeline speed level (0 skips it)."""
        module.triple = self.machine.triple
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        if passes:
            options = llvm.create_pipeline_tuning_options(speed_level=passes)
            llvm.create_pass_builder(self.machine, options).getModulePassManager().run(
                parsed, llvm.create_pass_builder(self.machine, options)
            )
        self.engine.add_module(parsed)
        self.engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of function `name`."""
        return self.engine.get_function_address(name)
