"""Register code of the 950: a kernel is right, each seeded fault is found and named, cycles are those of the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fault_list import Faults, message, mutant
from test_kernels import ARCHS, normal

from v4npu.emulated_kernels import Source
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

SKU = ARCHS[1]
SOFTMAX = Source("reg.asc", Path(__file__).with_name("reg.asc").read_text())
_EXP = "    StoreAlign(x + r * kLanes, value, all);\n"

FAULTS: Faults = {
    "read of unwritten UB": (
        "  AscendC::DataCopy(in, x_gm, kCount);\n", "",
        r"Reg::Max at <Max(largest> \(pipe V\): element 0 of a source, which nothing has written",
    ),
    "read of a register that nothing has set": (
        "  Duplicate(sum, 0.0f);\n", "",
        r"Reg::Add at <Add(sum> \(pipe V\): element 0 of a source, which nothing has written",
    ),
    "mask that nothing has set": (
        "CreateMask<float, MaskPattern::ALL>()", "MaskReg()",
        r"Reg::Max at <Max(largest> \(pipe V\): a mask that nothing has set",
    ),
    "load behind a buffer": (
        "r = 1; r < kRegisters", "r = 1; r < kRegisters + 1",
        r"Reg::LoadAlign at .* \(pipe V\) overflows by 192 bytes: 256 from byte 0 of the buffer of"
        r" <InitBuffer(scratch_buffer>",
    ),
    "store behind a buffer by 32 bytes": (
        "InitBuffer(out_buffer, kCount * sizeof(bfloat16_t))", "InitBuffer(out_buffer, kCount * 2 - 32)",
        r"Reg::StoreAlign at <DIST_PACK_B32> \(pipe V\) overflows by 32 bytes: 128 from byte 384 of the buffer of"
        r" <InitBuffer(out_buffer>",
    ),
    "buffer that the call was not given": (
        "LoadAlign(largest, x);", "LoadAlign(largest, x + 4096);",
        r"Reg::LoadAlign at <LoadAlign(largest, x> \(pipe V\): .* lies in no buffer that the call was given a pointer",
    ),
    "misaligned load": (
        "LoadAlign(largest, x);", "LoadAlign(largest, x + 4);",
        r"Reg::LoadAlign at <LoadAlign(largest, x> \(pipe V\): misaligned, byte 16 of the buffer of"
        r" <InitBuffer(x_buffer> is not a multiple of 32 bytes",
    ),
    "misaligned store": (
        "out + r * kLanes, rounded", "out + r * kLanes + 8, rounded",
        r"Reg::StoreAlign at <DIST_PACK_B32> \(pipe V\): misaligned, byte 16 of the buffer of <InitBuffer(out_buffer>",
    ),
    "unordered load and store": (
        _EXP, _EXP + "    StoreAlign(x, largest, first);\n",
        r"race: Reg::StoreAlign at <StoreAlign(x, largest> \(pipe V\) writes byte 0 of the buffer of"
        r" <InitBuffer(x_buffer> that Reg::(LoadAlign|StoreAlign) at .* \(pipe V\) (read|wrote): no LocalMemBar<",
    ),
    "V does not wait for MTE2": (
        "  AscendC::SetFlag<AscendC::HardEvent::MTE2_V>(EVENT_ID0);\n"
        "  AscendC::WaitFlag<AscendC::HardEvent::MTE2_V>(EVENT_ID0);\n", "",
        r"race: Reg::LoadAlign at <LoadAlign(largest, x> \(pipe V\) reads byte 0 of the buffer of <InitBuffer(x_buffer>"
        r" that DataCopy at <DataCopy(in> \(pipe MTE2\) wrote: no wait of V for MTE2 in between",
    ),
    "MTE3 does not wait for V": (
        "  AscendC::SetFlag<AscendC::HardEvent::V_MTE3>(EVENT_ID0);\n"
        "  AscendC::WaitFlag<AscendC::HardEvent::V_MTE3>(EVENT_ID0);\n", "",
        r"race: DataCopy at <DataCopy(out_gm> \(pipe MTE3\) reads byte 0 of the buffer of <InitBuffer(out_buffer> that"
        r" asc_vf_call at <asc_vf_call> \(pipe V\) wrote: no wait of MTE3 for V in between",
    ),
    "register code outside a vector function": (
        "  AscendC::DataCopy(out_gm", "  AscendC::Reg::CreateMask<float>();\n  AscendC::DataCopy(out_gm",
        r"Reg::CreateMask at <Reg::CreateMask>: register code outside a vector function",
    ),
    "other instruction inside a vector function": (
        "  Duplicate(sum, 0.0f);\n", "  Duplicate(sum, 0.0f);\n  AscendC::PipeBarrier<PIPE_V>(); AscendC::LocalTensor"
        "<float>(AscendC::TPosition::VECCALC, 4096, 8).SetValue(0, 0.0f);\n",
        r"LocalTensor::SetValue at <SetValue>: not in a vector function",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(cache):
    mutants = [mutant(SOFTMAX, fault, "softmax", f"_{i}") for i, fault in enumerate(FAULTS.values())]
    return Kernels([SOFTMAX, *mutants], 3510, cache)


def launch(kernels, suffix="", **options):
    x, out = 5 * normal(256), torch.full((256,), torch.nan, dtype=torch.bfloat16)
    report = kernels.launch(f"softmax{suffix}", SKU, 1, In(x), Out(out), **options)
    return out, torch.softmax(x.double(), 0), report


def test_softmax(kernels):
    out, exact, _ = launch(kernels)
    assert ((out.double() - exact).abs() <= 2**-8 * exact).all()


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(kernels, fault):
    suffix = f"_{list(FAULTS).index(fault)}"
    expected = message(mutant(SOFTMAX, FAULTS[fault], "softmax", suffix), FAULTS[fault][2])
    with pytest.raises(KernelFault, match=f"^softmax{suffix} on {SKU}, block 0: {expected}"):
        launch(kernels, suffix)


def test_every_missing_local_barrier_is_found(kernels):
    lines = SOFTMAX.text.splitlines()
    bars = [w for w in launch(kernels)[2].waits if "LocalMemBar" in lines[int(w.split(":")[1]) - 1]]
    assert len(bars) == 4
    for bar in bars:
        order = re.search("LocalMemBar<MemType::(\\w+)", lines[int(bar.split(":")[1]) - 1])[1]
        missing = "VEC_STORE, VEC_LOAD" if order == "VEC_ALL" else f"{order}, VEC_"
        with pytest.raises(KernelFault, match=rf"race: Reg::\w+ at .* that Reg::\w+ at .*: no LocalMemBar<{missing}"):
            launch(kernels, ignored_wait=bar)


def test_cycles(kernels):
    """Two instructions a cycle; Exp and Div take 4 to a register."""
    busy = launch(kernels)[2].modelled_busy_us["V"] * 1.8e3  # cycles at 1.8 GHz
    single = 2 + 1 + 3 * 2 + 2 + 2 + 4 * 4 + 2 + 2 + 2 + 4 * 4
    assert busy == pytest.approx((single + 4 * 4 + 4) / 2, rel=1e-3)
