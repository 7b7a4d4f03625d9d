"""The emulated Arm process itself: what it must notice, and that its processor computes what Arm's manual says."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from backends.native import arm_features
from backends.native.jit import target_machine
from backends.native.kernel import SLOT_FIRST_INPUT
from backends.native.target import named
from tests.emulation import aarch64_install
from tests.emulation.aarch64 import CPU, WIDE, Processor, processor
from tests.emulation.aarch64_object import linked

SIGNATURE = "define void @f(ptr %args, ptr %slots, i64 %chunk, ptr %scratch)"
OPERAND = f"""
  %slot = getelementptr ptr, ptr %slots, i64 {SLOT_FIRST_INPUT}
  %p = load ptr, ptr %slot
"""


def compiled(text: str, features: str = "+neon") -> bytes:
    """The object file of an LLVM module."""
    machine = target_machine(named("aarch64"))  # which initialises LLVM for Arm
    machine = llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu="generic", features=features, opt=2, reloc="pic", codemodel="default"
    )
    module = llvm.parse_assembly(f'target triple = "{machine.triple}"\n{text}')
    module.verify()
    return bytes(machine.emit_object(module))


def touching(offset: int, writes: bool = False) -> bytes:
    """A kernel that reads or writes one byte of its operand."""
    touch = "store volatile i8 1, ptr %q" if writes else "%x = load volatile i8, ptr %q"
    place = f"{OPERAND} %q = getelementptr i8, ptr %p, i64 {offset}"
    return compiled(f"{SIGNATURE} {{{place}\n {touch}\n ret void }}")


def test_operands_end_at_a_fence(aarch64: Processor) -> None:
    for length in (1, 5, 4096, 5000):
        inside = aarch64.load(touching(length - 1, writes=True), "f")
        found = aarch64.run(inside, [], [(bytes(length), 0)], [0], 0)
        assert found == (0, (bytes(length - 1) + b"\1",), "")


@pytest.mark.parametrize("offset", [5000, -5000])
def test_touching_a_fence_ends_the_process(offset: int, aarch64: Processor) -> None:
    entry = aarch64.load(touching(offset), "f")
    with pytest.raises(AssertionError, match="ended with -11"):
        aarch64.run(entry, [], [(bytes(5000), 0)], [0], 0)
    assert processor() is not aarch64
    assert processor().alive


def test_writing_before_an_operand_is_noticed(aarch64: Processor) -> None:
    entry = aarch64.load(touching(-1, writes=True), "f")
    assert aarch64.run(entry, [], [(bytes(3), 0)], [0], 0)[2] == "before operand 0"


def test_constants_are_loaded_with_the_code(aarch64: Processor) -> None:
    """Of which LLVM makes a pool, read through two relocations; and functions that call one another."""
    text = f"""
    define internal <4 x i32> @g(<4 x i32> %x) noinline {{
      %y = mul <4 x i32> %x, <i32 1000003, i32 -77777, i32 3, i32 123456789>
      ret <4 x i32> %y
    }}
    {SIGNATURE} {{{OPERAND}
      %x = load <4 x i32>, ptr %p
      %y = call <4 x i32> @g(<4 x i32> %x)
      store <4 x i32> %y, ptr %p
      ret void
    }}"""
    x = np.array([1, 2, 3, 4], np.int32)
    _, (found,), _ = aarch64.run(aarch64.load(compiled(text), "f"), [], [(x.tobytes(), 0)], [0], 0)
    assert np.frombuffer(found, np.int32).tolist() == [1000003, -155554, 9, 493827156]


def test_code_that_needs_a_library_is_refused() -> None:
    text = f"declare void @outside()\n{SIGNATURE} {{ call void @outside()\n ret void }}"
    with pytest.raises(ValueError, match="f refers to outside, which its object does not define"):
        linked(compiled(text), "f")
    text = f"@there = global i64 1\n{SIGNATURE} {{ store ptr @there, ptr %scratch\n ret void }}"
    with pytest.raises(ValueError, match="relocation 311 is none of those"):
        linked(compiled(text), "f")


def test_old_emulators_are_refused(tmp_path: Path) -> None:
    for said, expected in (("qemu-aarch64 version 7.2.13 (Debian)", 7), ("qemu-aarch64 version 10.0.2", 10), ("", 0)):
        script = tmp_path / "emulator"
        script.write_text(f"#!/bin/sh\necho '{said}'\n")
        script.chmod(0o755)
        assert aarch64_install.version(script) == expected
    assert aarch64_install.version(tmp_path / "none") == 0


# 16 x 16 words += 16 x 4 by 4 x 16 bytes, in streaming mode with vectors of 64 bytes.
TILE = """
declare void @llvm.aarch64.sme.za.enable()
declare void @llvm.aarch64.sme.za.disable()
declare void @llvm.aarch64.sme.zero(i32 immarg)
declare <vscale x 16 x i1> @llvm.aarch64.sve.ptrue.nxv16i1(i32 immarg)
declare <vscale x 4 x i1> @llvm.aarch64.sve.ptrue.nxv4i1(i32 immarg)
declare <vscale x 16 x i8> @llvm.aarch64.sve.ld1.nxv16i8(<vscale x 16 x i1>, ptr)
declare void @llvm.aarch64.sme.{product}.wide.nxv16i8(i32 immarg, <vscale x 16 x i1>, <vscale x 16 x i1>,
  <vscale x 16 x i8>, <vscale x 16 x i8>)
declare void @llvm.aarch64.sme.st1w.horiz(<vscale x 4 x i1>, ptr, i32 immarg, i32)
{signature} nounwind "aarch64_pstate_sm_body" {{
entry:
  %sa = getelementptr ptr, ptr %slots, i64 3
  %sb = getelementptr ptr, ptr %slots, i64 4
  %sc = getelementptr ptr, ptr %slots, i64 5
  %a = load ptr, ptr %sa
  %b = load ptr, ptr %sb
  %c = load ptr, ptr %sc
  call void @llvm.aarch64.sme.za.enable()
  call void @llvm.aarch64.sme.zero(i32 255)
  %all = call <vscale x 16 x i1> @llvm.aarch64.sve.ptrue.nxv16i1(i32 31)
  %words = call <vscale x 4 x i1> @llvm.aarch64.sve.ptrue.nxv4i1(i32 31)
  %x = call <vscale x 16 x i8> @llvm.aarch64.sve.ld1.nxv16i8(<vscale x 16 x i1> %all, ptr %a)
  %y = call <vscale x 16 x i8> @llvm.aarch64.sve.ld1.nxv16i8(<vscale x 16 x i1> %all, ptr %b)
  call void @llvm.aarch64.sme.{product}.wide.nxv16i8(i32 0, <vscale x 16 x i1> %all, <vscale x 16 x i1> %all,
    <vscale x 16 x i8> %x, <vscale x 16 x i8> %y)
  br label %row
row:
  %i = phi i32 [0, %entry], [%next, %row]
  %offset = mul i32 %i, 64
  %to = getelementptr i8, ptr %c, i32 %offset
  call void @llvm.aarch64.sme.st1w.horiz(<vscale x 4 x i1> %words, ptr %to, i32 0, i32 %i)
  %next = add i32 %i, 1
  %more = icmp ult i32 %next, 16
  br i1 %more, label %row, label %done
done:
  call void @llvm.aarch64.sme.za.disable()
  ret void
}}
"""


@pytest.mark.parametrize(("product", "kind"), [("smopa", np.int8), ("umopa", np.uint8), ("usmopa", np.uint8)])
def test_bytes_multiply_in_tiles(product: str, kind: type, aarch64: Processor, rng: np.random.Generator) -> None:
    """What versions before 10 get wrong: with those, nothing here would mean anything."""
    other = np.int8 if product == "usmopa" else kind
    a, b = (rng.integers(np.iinfo(k).min, np.iinfo(k).max, (16, 4), k, endpoint=True) for k in (kind, other))
    code = compiled(TILE.format(product=product, signature=SIGNATURE), "+sme")
    operands = [(a.tobytes(), 0), (b.tobytes(), 0), (bytes(1024), 0)]
    _, (_, _, found), _ = aarch64.run(aarch64.load(code, "f"), [], operands, [0], 0)
    assert np.array_equal(np.frombuffer(found, np.int32).reshape(16, 16), a.astype(np.int32) @ b.T.astype(np.int32))


VARYING = {"sme2", "bf16"}  # of one processor, from version to version of QEMU
V1, A64FX = named("armv8.4-sve256").features, named("armv8.2-sve512").features


@pytest.mark.parametrize(
    ("cpu", "features", "vector", "streaming"),
    [
        pytest.param("cortex-a72", {"neon"}, 0, 0, marks=pytest.mark.slow),
        pytest.param("neoverse-n1", {"neon", "fullfp16", "dotprod"}, 0, 0, marks=pytest.mark.slow),
        ("neoverse-v1", V1, 32, 0),
        pytest.param("neoverse-n2", V1 | {"sve2"}, 16, 0, marks=pytest.mark.slow),
        pytest.param("a64fx", A64FX, 64, 0, marks=pytest.mark.slow),
        pytest.param(WIDE.format(32), V1 | {"sve2"}, 32, 0, marks=pytest.mark.slow),
        (CPU, V1 | named("armv9-sme").features | {"sve2"}, 64, 64),
    ],
)
def test_features_of_processors(cpu: str, features: set[str], vector: int, streaming: int, aarch64: Processor) -> None:
    """The module that asks Linux, run where Linux says it is an Arm machine: machines by name have what such processors
    have."""
    asked = "set(m['detected']()), m['vector_bytes'](), m['streaming_bytes']()"
    code = f"import runpy; m = runpy.run_path({arm_features.__file__!r}); print(({asked}))"
    emulator, python = aarch64_install.emulator(), aarch64_install.python()
    command = [emulator, "-cpu", cpu, "-L", aarch64_install.ROOT, python, "-IS", "-c", code]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    found, *lengths = ast.literal_eval(said)
    assert (found - VARYING, lengths) == (features - VARYING, [vector, streaming])
