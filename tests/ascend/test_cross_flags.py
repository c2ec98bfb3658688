"""Flags between cores: all of a kind (mode 0), vector cores of a block (1), a cube and a vector core (4).

Mode 2 is in test_mixed.py.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from fault_list import mutant
from test_kernels import ARCHS, normal

from v4npu.emulated_kernels import Source, skus
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

CROSS, IN_TURN = (
    Source(name, Path(__file__).with_name(name).read_text()) for name in ("cross.asc", "cross_dav3510.asc")
)
DAV3510 = ARCHS[1]
SET_SWAP = "CrossCoreSetFlag<1, PIPE_MTE3>(kWritten)"

# name: (kernel, text, replacement, message)
FAULTS = {
    "a block stays silent": (
        "rotate", "AscendC::CrossCoreSetFlag<0, PIPE_MTE3>(kWritten)",
        "if (mine > 0) AscendC::CrossCoreSetFlag<0, PIPE_MTE3>(kWritten)",
        r"^rotate_\d on \w+: deadlock: AIV0 of block 0 waits for flag 0 at cross\.asc:\d+, which AIV0 of block 0 did"
        r" not set, AIV0 of block 1 waits for flag 0 at cross\.asc:\d+, which AIV0 of block 0 did not set, AIV0 of",
    ),
    "a block ends early": (
        "rotate", "loaded();\n    for", "loaded();\n    if (mine == 0) return;\n    for",
        r"deadlock: AIV0 of block 1 waits for flag 0 at .*, which AIV0 of block 0 did not set, .* AIV0 of block 0 has"
        r" ended",
    ),
    "a flag is set for no one": (
        "rotate", "if (round + 1 < rounds) ", "",
        r"^rotate_\d on \w+: CrossCoreSetFlag\(1\) at cross\.asc:\d+: surplus, the kernel ends and nothing waited",
    ),
    "a flag is set by some": (
        "rotate", "if (round + 1 < rounds) ", "if (round + 1 < rounds || mine == 0) ",
        r"CrossCoreSetFlag\(1\) at .*: surplus, the kernel ends and AIV0 of block 1, AIV0 of block 2 did not set it",
    ),
    "the kernel's type has no flags": (
        "rotate", "KERNEL_TYPE_MIX_AIV_1_0", "KERNEL_TYPE_AIV_ONLY",
        r"CrossCoreSetFlag\(0\) at cross\.asc:\d+: the kernel's type runs no cores together",
    ),
    "vector cores without their cube core": (
        "swap_rows", "KERNEL_TYPE_MIX_AIC_1_2", "KERNEL_TYPE_MIX_AIV_1_0",
        r"CrossCoreSetFlag\(0\) at .*: the kernel's type runs no cube core with two vector cores",
    ),
    "a vector core stays silent": (
        "swap_rows", f"AscendC::{SET_SWAP}", f"if (AscendC::GetSubBlockIdx() == 0) AscendC::{SET_SWAP}",
        r"deadlock: AIV0 of block 0 waits for flag 0 at cross\.asc:\d+, which AIV1 of block 0 did not set, AIV1 of"
        r" block 0 waits for flag 0 at cross\.asc:\d+, which AIV1 of block 0 did not set, .* and 3 more$",
    ),
    "a pipe that the core lacks": (
        "swap_rows", SET_SWAP, SET_SWAP.replace("MTE3", "FIX"),
        r"CrossCoreSetFlag\(0\) at cross\.asc:\d+: a vector core has no pipe FIX",
    ),
    "one flag in two modes": (
        "swap_rows", f"AscendC::{SET_SWAP};",
        f"AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kWritten); AscendC::{SET_SWAP};",
        r"CrossCoreSetFlag\(0\) at cross\.asc:\d+: still in use in mode 2, set at cross\.asc:\d+",
    ),
    "a cube core among vector cores": (
        "swap_rows", "if ASCEND_IS_AIV {",
        "if ASCEND_IS_AIC AscendC::CrossCoreSetFlag<1, PIPE_M>(0);\nif ASCEND_IS_AIV {",
        r"CrossCoreSetFlag\(0\) at cross\.asc:\d+: mode 1 is between vector cores",
    ),
}  # fmt: skip

FAULTS_3510 = {
    "a flag of the other vector core": (
        "kFull + other", "kFull",
        r"race: Fixpipe at .* of AIC\) writes .* of AIV0\) read: no CrossCoreWaitFlag of AIC for",
    ),
    "a vector core stays silent": (
        "AscendC::CrossCoreSetFlag<4, PIPE_V>(kVacant)",
        "if (AscendC::GetSubBlockIdx() == 0) AscendC::CrossCoreSetFlag<4, PIPE_V>(kVacant)",
        r"deadlock: AIC waits for flag 17 at cross_dav3510\.asc:\d+, AIV0 waits for flag 0 at .*, AIV1 waits for flag",
    ),
    "a flag of modes 0 to 2": (
        "CrossCoreSetFlag<4, PIPE_FIX>(kFull", "CrossCoreSetFlag<2, PIPE_FIX>(kFull",
        r"CrossCoreSetFlag\(16\) at cross_dav3510\.asc:\d+: flags are 0 to 15",
    ),
    "a flag that does not exist": (
        "kFull + other", "11 + other", r"CrossCoreSetFlag\(11\) at .*: flags of mode 4 are 0 to 10 and 16 to 26",
    ),
    "a flag of the cube core's numbers": (
        "CrossCoreWaitFlag<4, PIPE_V>(kFull)", "CrossCoreWaitFlag<4, PIPE_V>(kFull + kSecondVector)",
        r"CrossCoreWaitFlag\(16\) at .*: flags of mode 4 are 0 to 10$",
    ),
    "a pipe that the core lacks": (
        "CrossCoreWaitFlag<4, PIPE_V>", "CrossCoreWaitFlag<4, PIPE_M>",
        r"CrossCoreWaitFlag\(0\) at .*: a vector core has no pipe M",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(cache):
    @functools.cache
    def built(in_turn, arch):
        source, faults = (
            (IN_TURN, [("in_turn", *f) for f in FAULTS_3510.values()]) if in_turn else (CROSS, FAULTS.values())
        )
        mutants = [mutant(source, fault[1:], fault[0], f"_{i}") for i, fault in enumerate(faults)]
        return Kernels([source, *mutants], arch, cache)

    return lambda kernel, sku: built(kernel == "in_turn", skus()[sku])


@pytest.fixture
def run(kernels):
    """run(kernel, sku, num_blocks): the kernel's output, the exact one and the report."""

    def on(kernel, sku, num_blocks=3, suffix="", rounds=2, **options):
        def launch(*arguments):
            return kernels(kernel, sku).launch(kernel + suffix, sku, num_blocks, *arguments, **options)

        if kernel == "chain":
            x, w = normal(num_blocks, 16, 16, dtype=torch.float16), normal(16, 16, dtype=torch.float16, seed=1)
            out, workspace = torch.full_like(x, torch.nan), torch.empty_like(x)
            report = launch(In(x), In(w), Out(workspace), Out(out))
            first = (x.roll(-1, 0).double() @ w.double().T).half()
            return out.double(), first.double() @ w.double().T, report
        if kernel == "in_turn":
            x, w = normal(num_blocks, 16, 16, dtype=torch.float16), normal(16, 16, dtype=torch.float16, seed=1)
            out, tiles, num_blocks = torch.full(x.shape, torch.nan), num_blocks, 1
            report = launch(In(x), In(w), Out(out), tiles)
            return out.double(), (x.double() @ w.double().T).clamp(min=0), report
        x = normal(2 * num_blocks if kernel == "swap_rows" else num_blocks, 64)
        out, workspace = torch.full_like(x, torch.nan), torch.empty_like(x)
        arguments = (In(x), Out(workspace), Out(out), x.numel())
        if kernel == "rotate":
            return out, x.roll(-rounds, 0), launch(*arguments, rounds)
        return out, x.view(-1, 2, 64).flip(1).view(x.shape), launch(*arguments)

    return on


RUNS = [(kernel, sku) for kernel in ("rotate", "swap_rows", "chain") for sku in ARCHS] + [("in_turn", DAV3510)]


@pytest.mark.parametrize("num_blocks", [1, 2, 5, 20])
@pytest.mark.parametrize("kernel,sku", RUNS)
def test_result(run, kernel, sku, num_blocks):
    out, exact, _ = run(kernel, sku, num_blocks)
    assert (out - exact).abs().max() <= exact.abs().max() * (2**-9 if kernel == "chain" else 2**-20)


@pytest.mark.parametrize("kernel,sku", RUNS)
def test_every_wait_is_missed(run, kernel, sku):
    lines = (IN_TURN if kernel == "in_turn" else CROSS).text.splitlines()
    for wait in run(kernel, sku, 4)[2].waits:
        between_cores = "CrossCoreWaitFlag" in lines[int(wait.split(":")[1]) - 1]
        if kernel == "chain" and not between_cores:
            continue  # the meeting also orders what the second product's buffers wait for
        with pytest.raises(
            KernelFault, match=r"race: .* at cross\w*\.asc:\d+ .* that .* at cross\w*\.asc:\d+ "
        ) as fault:
            run(kernel, sku, 4, ignored_wait=wait)
        if between_cores:
            assert re.search("no CrossCoreWaitFlag|no wait of MTE[23] for MTE[23]", str(fault.value))


def test_a_block_that_is_not_waited_for(run):
    lines = CROSS.text.splitlines()
    wait = next(f"cross.asc:{i}" for i, line in enumerate(lines, 1) if "PIPE_MTE2>(kWritten)" in line)
    with pytest.raises(KernelFault, match="no CrossCoreWaitFlag<0> orders the blocks in between"):
        run("rotate", DAV3510, ignored_wait=wait)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault(run, sku, fault):
    kernel, _, _, message = FAULTS[fault]
    with pytest.raises(KernelFault, match=message):
        run(kernel, sku, suffix=f"_{list(FAULTS).index(fault)}")


@pytest.mark.parametrize("fault", FAULTS_3510)
def test_fault_of_mode_4(run, fault):
    with pytest.raises(KernelFault, match=FAULTS_3510[fault][2]):
        run("in_turn", DAV3510, 5, suffix=f"_{list(FAULTS_3510).index(fault)}")


@pytest.mark.parametrize("sku,cores", [(ARCHS[0], 48), (DAV3510, 72)])
def test_more_blocks_than_cores_never_meet(run, sku, cores):
    out, exact, _ = run("rotate", sku, cores)
    assert torch.equal(out, exact)
    with pytest.raises(KernelFault, match="deadlock, mode 0 waits for blocks that only get a core when others end"):
        run("rotate", sku, cores + 1)


def test_blocks_that_meet_wait_for_the_slowest(run):
    """The modelled time holds the copies of each round, one after the other."""
    times = [run("rotate", ARCHS[0], 4, rounds=rounds)[2].modelled_us for rounds in (1, 2, 3)]
    assert times[0] < times[1] < times[2]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0])
