"""What the model reads off assembler text: instructions by kind, loops, passes."""

from __future__ import annotations

import pytest

from bench.model_code import Function, Mix, functions, mix_of, resumes, tile_rows


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vmovups\t64(%rdx), %zmm25", Mix(1, loads=1, load_bytes=64)),
        ("vmovups\t%zmm25, 64(%rdx)", Mix(1, stores=1, store_bytes=64)),
        ("vbroadcastss\t(%rsi,%rbp), %zmm27", Mix(1, loads=1, load_bytes=4)),
        ("vfmadd231ps\t(%rsi){1to16}, %zmm27, %zmm0", Mix(1, 1, loads=1, load_bytes=4)),
        ("vfmadd231ps\t%zmm26, %zmm27, %zmm22", Mix(1, 1)),
        ("tileloadd\t(%rbp,%r11), %tmm4", Mix(1, loads=1, load_bytes=1024)),
        ("tilestored\t%tmm0, (%r9,%rax)", Mix(1, stores=1, store_bytes=1024)),
        ("vpandd\t%zmm0, %zmm6, %zmm6", Mix(1, vectors=1)),
        ("prefetcht1\t64(%r10)", Mix(1, prefetches=1)),
        ("cmpq\t104(%rsp), %rax", Mix(1, loads=1, load_bytes=8)),
        ("leaq\t(%rsi,%r13), %rbp", Mix(1)),
        ("ldr\tz1, [x2, #1, mul vl]", Mix(1, loads=1, load_bytes=64)),
        ("ld1b\t{ z16.b, z24.b }, pn8/z, [x2]", Mix(1, loads=1, load_bytes=128)),
        ("ld1b\t{ z4.b - z7.b }, pn8/z, [x1, x9]", Mix(1, loads=1, load_bytes=256)),
        ("st1w\t{za0h.s[w12, 0]}, p0, [x8]", Mix(1, stores=1, store_bytes=64)),
        ("ldp\tq0, q1, [x1]", Mix(1, loads=1, load_bytes=32)),
        ("ld1\t{ v0.b }[3], [x1]", Mix(1, loads=1, load_bytes=1)),
        ("fmopa\tza0.s, p1/m, p1/m, z2.s, z0.s", Mix(1, 1)),
        ("fmla\tv0.4s, v1.4s, v2.s[0]", Mix(1, 1)),
        ("prfm\tpldl2keep, [x10]", Mix(1, prefetches=1)),
        ("add\tx12, x12, #1", Mix(1)),
    ],
)
def test_instructions_by_kind(line: str, expected: Mix) -> None:
    assert mix_of([line], 64) == expected


def test_rows_of_tiles_are_counted_by_tile() -> None:
    two = ["ld1w\t{za0h.s[w12, 0]}, p0/z, [x8]", "ld1w\t{za0h.s[w12, 1]}, p0/z, [x8, x9, lsl #2]"]
    assert tile_rows(two) == 2
    assert tile_rows(["mov\tz0.s, p0/m, za0h.s[w12, 0]", "mov\tz0.s, p0/m, za1h.s[w12, 0]"]) == 1
    assert tile_rows(["fmopa\tza0.s, p1/m, p1/m, z2.s, z0.s"]) == 1
    blocks = functions("f:\n\tld1d\t{za1h.d[w12, 0]}, p0/z, [x9]\n\tret\n.Lfunc_end0:\n")["f"].blocks
    assert resumes(blocks[0])


def test_paths_go_by_what_is_asked_for() -> None:
    """Around a loop, without it, and the shorter of two ways unless the longer one is wanted."""
    text = """
f:
	testb	$1, %al
	je	.LBB0_2
	vxorps	%xmm1, %xmm1, %xmm1
	vxorps	%xmm2, %xmm2, %xmm2
	jmp	.LBB0_3
.LBB0_2:
	prefetchw	(%rax)
	nop
	nop
	nop
.LBB0_3:
	incq	%rax
	cmpq	%rax, %rbx
	jl	.LBB0_3
	retq
.Lfunc_end0:
"""
    function: Function = functions(text)["f"]
    assert [function.lines(loop)[0] for loop in function.loops] == ["incq\t%rax"]
    short, loops = function.once()
    assert (short.instructions, short.vectors, loops) == (6, 2, function.loops)
    long, _ = function.once(None, [lambda block: any("prefetchw" in line for line in block.lines)])
    assert (long.instructions, long.prefetches) == (7, 1)
    assert function.once(function.loops[0])[0].instructions == 3
    assert function.product_loop() is None
