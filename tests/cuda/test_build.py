"""Every kernel compiles for every architecture within the limits it states; needs nvcc, not a GPU."""

from __future__ import annotations

import shutil

import pytest

from v4npu.testing.cuda import kernel_files, script

NVCC = shutil.which("nvcc")


build = script("backends/cuda/build.py")

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'f_bf16' for 'sm_80'
ptxas info    : Function properties for f_bf16
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem, 360 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compile time = 19.844 ms
ptxas info    : Compiling entry function 'g' for 'sm_90a'
ptxas info    : Function properties for g
    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 168 registers, used 0 barriers
"""


def test_what_ptxas_says_is_understood() -> None:
    assert build.parse_usage(REPORT) == [
        build.Usage("f_bf16", "sm_80", 40, 8, 0, 128),
        build.Usage("g", "sm_90a", 168, 0, 12, 0),
    ]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("40 registers, 8 bytes of stack, 128 bytes of shared memory.", []),
        ("39 registers, 8 bytes of stack, 128 bytes of shared memory.", ["f_bf16 on sm_80: 40 registers, limit 39"]),
        ("40 registers, 0 bytes of stack, 128 bytes of shared memory.", ["f_bf16 on sm_80: 8 bytes of stack, limit 0"]),
        (
            "40 registers, 8 bytes of stack, 64 bytes of shared memory.",
            ["f_bf16 on sm_80: 128 bytes of shared memory, limit 64"],
        ),
        ("many registers", ["f: the kernel file states no limits"]),
    ],
)
def test_a_broken_limit_is_named(limits: str, said: list[str]) -> None:
    assert build.violations("f", f"// f\n// Limits: {limits}\n", build.parse_usage(REPORT)[:1]) == said


def test_a_spilled_register_is_one_too_many() -> None:
    text = "// Limits: 255 registers, 8 bytes of stack, 128 bytes of shared memory."
    assert build.violations("f", text, build.parse_usage(REPORT)) == ["g on sm_90a: 12 bytes spilled, limit 0"]


@pytest.mark.parametrize("op", kernel_files())
def test_every_kernel_states_its_limits(op: str) -> None:
    assert build.LIMITS.search(kernel_files()[op].read_text())


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: kernels are not compiled for a GPU here")
@pytest.mark.parametrize("op", kernel_files())
def test_kernels_compile_within_their_limits(op: str) -> None:
    out = build.ROOT / "build/cuda"  # of `make cuda` too, which may have compiled them already
    usages = build.build(out, [op])[op]
    assert {u.arch for u in usages} == {"sm_90a", "sm_100"} | ({"sm_80"} if not op.endswith("_sm90") else set())
    assert (out / f"{op}.fatbin").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: kernels are not compiled for a GPU here")
def test_registers_leave_room_for_one_block_of_attention() -> None:
    """So the plan gives it all the shared memory that it can use (plan_gpu_staged_rows)."""
    usages = build.build(build.ROOT / "build/cuda", ["csa_attention"])["csa_attention"]
    blocks = [65536 // (256 * u.registers) for u in usages if "_packed" in u.kernel or "_plain" in u.kernel]
    assert blocks and set(blocks) == {1}


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: kernels are not compiled for a GPU here")
def test_registers_leave_room_for_two_blocks_of_few_tokens() -> None:
    """As the plan supposes when it shares out shared memory (plan_gpu_stages)."""
    built = build.build(build.ROOT / "build/cuda", ["fp8_linear", "fp4_linear", "moe_experts_sm90"])
    split = [u for usages in built.values() for u in usages if u.kernel.endswith(("_split", "_cluster"))]
    assert split and all(65536 // (256 * u.registers) >= 2 for u in split)
