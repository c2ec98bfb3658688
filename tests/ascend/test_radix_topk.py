"""The radix top-k of the 950: exact, and its modelled cycles beside the published estimate, step by step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fault_list import mutant

from v4npu.emulated_kernels import Source
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

RADIX = Source("radix_topk.asc", Path(__file__).with_name("radix_topk.asc").read_text())
SKU, GHZ = "ascend950dt_9591", 1.8

# Published cycles for n keys, a step at a time: (those of 256 keys, and once); deepseek_v4_ascendc_operator_guide.md of
# cann-recipes-infer. They sum up to n / 256 * 111 + 192.
PUBLISHED = {
    "hist1": (9, 10), "find1": (0, 38), "hist2": (10, 10), "find2": (0, 38), "hist3": (13, 10), "find3": (0, 38),
    "hist4": (15, 10), "findKth": (0, 38), "findGTO and findEQ": (4 * 7 + 4 * 9, 0),
}  # fmt: skip

FAULTS = {
    "AR is not cleared": ("  ClearSpr<AscendC::SpecialPurposeReg::AR>();\n", "", "AR was not cleared"),
    "packed elements are not stored": (
        "AscendC::CMPMODE::GT>(picked, key, limit, all);", "AscendC::CMPMODE::GT>(picked, key, limit, all);"
        "Squeeze<uint32_t, GatherMaskMode::STORE_REG>(packed, (RegTensor<uint32_t>&)index, picked);",
        "Reg::Squeeze at .*: two Squeezes without a StoreUnAlign in between",
    ),
    "the last bytes stay in the register": (
        "  StoreUnAlignPost(indices, rest);\n", "", r"are still in its register \(StoreUnAlignPost\)",
    ),
    "indices overflow": (
        "indices_buffer, kMaxKeys * sizeof(uint32_t)", "indices_buffer, 256",
        r"Reg::StoreUnAlign at radix_topk\.asc:\d+ \(pipe V\) overflows by \d+ bytes",
    ),
    "counts that nothing has set": (
        "  Duplicate(lower, uint16_t{0});\n", "", r"Reg::Histograms at .*: element 0 of a source, which nothing has",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(cache):
    mutants = [mutant(RADIX, fault, "radix_topk", f"_{i}", 3510) for i, fault in enumerate(FAULTS.values())]
    return Kernels([RADIX, *mutants], 3510, cache)


def run(kernels, keys, k, suffix="", **options):
    """The indices that the kernel gives for int64 keys below 2^32, and its report."""
    as_int32 = torch.where(keys < 2**31, keys, keys - 2**32).to(torch.int32)
    out = torch.full((k,), -1, dtype=torch.int32)
    report = kernels.launch(f"radix_topk{suffix}", SKU, 1, In(as_int32), Out(out), keys.numel(), k, **options)
    return out.long(), report


def exact(keys, k):
    kth = keys.sort(descending=True).values[k - 1]
    return torch.cat(((keys > kth).nonzero().flatten(), (keys == kth).nonzero().flatten()))[:k]


def keys_of(kind, n):
    random = torch.Generator().manual_seed(n)
    if kind == "scores":  # floats by the published transform that keeps their order
        bits = torch.randn(n, generator=random).view(torch.int32).long() & 0xFFFFFFFF
        return torch.where(bits < 2**31, bits + 2**31, 2**32 - 1 - bits)
    if kind == "close":  # equal but for the last digit
        return 0x80402000 + torch.randint(0, 256, (n,), generator=random)
    if kind == "equal":
        return torch.full((n,), 0xFFFFFFFF)
    return torch.arange(n) * 2**18 % 2**32  # many of each


@pytest.mark.parametrize("n,k", [(256, 8), (256, 256), (512, 504), (2048, 512), (16384, 512)])
@pytest.mark.parametrize("kind", ["scores", "close", "equal", "repeated"])
def test_indices(kernels, kind, n, k):
    keys = keys_of(kind, n)
    assert torch.equal(run(kernels, keys, k)[0], exact(keys, k))


def modelled(kernels, n):
    """Modelled cycles of each step."""
    trace = json.loads(run(kernels, keys_of("scores", n), 512, trace=True)[1].trace)
    calls = [e for e in trace["traceEvents"] if e["name"] == "asc_vf_call"]
    steps = [call["dur"] * GHZ * 1e3 for call in sorted(calls, key=lambda e: e["ts"])[1:]]  # the first starts
    return dict(zip(PUBLISHED, steps, strict=True))


def test_modelled_cycles_beside_the_published_estimate(kernels):
    n = 16384
    published = {step: n // 256 * each + once for step, (each, once) in PUBLISHED.items()}
    assert sum(published.values()) == n // 256 * 111 + 192 == 7296
    steps = modelled(kernels, n)
    assert all(cycles <= published[step] for step, cycles in steps.items())
    assert sum(steps.values()) / 7296 == pytest.approx(0.68, abs=0.005)  # the README's figure
    # the histogram's own rate bounds the first, that of Squeeze the last
    assert steps["hist1"] == pytest.approx(n // 256 * 8, rel=1e-3)
    assert steps["findGTO and findEQ"] == pytest.approx(2 * n // 64 * 5, rel=1e-3)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(kernels, fault):
    with pytest.raises(KernelFault, match=FAULTS[fault][2]):
        run(kernels, keys_of("scores", 2048), 512, f"_{list(FAULTS).index(fault)}")
