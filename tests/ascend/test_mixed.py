"""A cube core and its two vector cores at work together: flags between them, races, deadlocks."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from fault_list import message, mutant
from test_kernels import ARCHS, normal

from v4npu.emulated_kernels import Source, skus
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

MIXED = Source("mixed.asc", Path(__file__).with_name("mixed.asc").read_text())
SET_FULL, SET_VACANT = "CrossCoreSetFlag<2, PIPE_FIX>(kFull)", "CrossCoreSetFlag<2, PIPE_MTE2>(kVacant)"
DEADLOCK = (
    r"deadlock: AIC waits for flag 1 at <WaitFlag<2, PIPE_FIX>, AIV0 waits for flag 0 at <WaitFlag<2, PIPE_MTE2>, AIV1"
    r" waits for flag 0 at <WaitFlag<2, PIPE_MTE2>$"
)
SILENT = DEADLOCK.replace("PIPE_FIX>", "PIPE_FIX>, which AIV1 did not set")
PIPE = ("CrossCoreWaitFlag<2, PIPE_MTE2>", "CrossCoreWaitFlag<2, PIPE_V>", "")

# name: (text, replacement, message)
FAULTS = {
    "vector cores set another flag": (SET_VACANT, SET_VACANT.replace("kVacant", "3"), DEADLOCK),
    "cube core sets another flag": (SET_FULL, SET_FULL.replace("kFull", "3"), DEADLOCK),
    "one vector core stays silent": (
        "if (step + kSlots < steps_)", "if (step + kSlots < steps_ && AscendC::GetSubBlockIdx() == 0)", SILENT,
    ),
    "vector cores set a flag that nothing waits for": (
        "if (step + kSlots < steps_) ", "", r"CrossCoreSetFlag\(1\) at mixed\.asc:\d+: surplus, the kernel ends and",
    ),
    "flag that does not exist": (
        SET_FULL, SET_FULL.replace("kFull", "16"), r"CrossCoreSetFlag\(16\) .*: flags are 0 to 15",
    ),
    "flag set too often": (
        f"AscendC::{SET_FULL}", f"for (int i = 0; i < 16; ++i) AscendC::{SET_FULL}",
        r"CrossCoreSetFlag\(0\) at mixed\.asc:\d+: set 16 times and not waited for",
    ),
    "cube core asks for a UB": (
        "AscendC::TQue<AscendC::TPosition::CO1, 1>", "AscendC::TQue<AscendC::TPosition::VECOUT, 1>",
        r"InitBuffer at mixed\.asc:\d+: a cube core has no UB",
    ),
    "cores of a kernel for vector cores alone": (
        "KERNEL_TYPE_MIX_AIC_1_2", "KERNEL_TYPE_AIV_ONLY",
        r"CrossCoreWaitFlag\(0\) at mixed\.asc:\d+: the kernel's type runs no cores together",
    ),
    "both halves to one vector core": (
        "AscendC::GetSubBlockIdx() * kCount", "0 * kCount",
        r"race: DataCopy at .* \(pipe MTE3 of AIV1\) writes byte 0 of out that DataCopy at .* \(pipe MTE3 of AIV0\)",
    ),
}  # fmt: skip


@functools.cache
def built(arch, cache):
    faulty = [mutant(MIXED, fault, "mixed", f"_{i}", arch) for i, fault in enumerate(FAULTS.values())]
    return Kernels([MIXED, *faulty, mutant(MIXED, PIPE, "mixed", "_pipe", arch)], arch, cache)


def mixed(cache, sku, suffix="", steps=5, **options):
    """The clipped product, the exact one and the report."""
    a, b = normal(16 * steps, 64, dtype=torch.bfloat16), normal(64, 64, dtype=torch.bfloat16, seed=1)
    out, workspace = torch.full((16 * steps, 64), torch.nan), torch.empty(2, 16, 64)
    arguments = (In(a), In(b), Out(workspace), Out(out), steps)
    report = built(skus()[sku], cache).launch(f"mixed{suffix}", sku, 1, *arguments, **options)
    return out.double(), (a.double() @ b.double().T).clamp(min=0), report


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("sku", ARCHS)
def test_product_and_clip(cache, sku, steps):
    out, exact, _ = mixed(cache, sku, steps=steps)
    assert (out - exact).abs().max() <= 1e-4


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault(cache, sku, fault):
    with pytest.raises(KernelFault, match=message(MIXED, FAULTS[fault][2])):
        mixed(cache, sku, f"_{list(FAULTS).index(fault)}")


@pytest.mark.parametrize("sku", ARCHS)
def test_every_wait_is_missed(cache, sku):
    for wait in mixed(cache, sku)[2].waits:
        with pytest.raises(
            KernelFault, match=r"race: .* at mixed\.asc:\d+ .* that .* at mixed\.asc:\d+ .*: no "
        ) as fault:
            mixed(cache, sku, ignored_wait=wait)
        if "CrossCoreWaitFlag" in MIXED.text.splitlines()[int(wait.split(":")[1]) - 1]:
            assert re.search("no CrossCoreWaitFlag of AI[CV]0? for AI[CV]0? in between", str(fault.value))


def test_a_wait_of_3510_orders_its_pipe_alone(cache):
    """On 2201 every pipe of the core waits: a wait on the wrong pipe is right there and wrong on 3510."""
    out, exact, _ = mixed(cache, ARCHS[0], "_pipe")
    assert (out - exact).abs().max() <= 1e-4
    with pytest.raises(KernelFault, match="no CrossCoreWaitFlag of AIV0 for AIC"):
        mixed(cache, ARCHS[1], "_pipe")
