"""Seeded faults: each is found by the emulator and named, with the lines that matter."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fault_list import DOUBLING, RMS_NORM, message, mutant
from test_kernels import ARCHS, normal, small_run

from v4npu.testing.ascend import ASCEND, In, InOut, KernelFault, Kernels, Out, Source, skus
from v4npu.testing.ascend_ops import OPS, EmulatedOps

SMALL = Source("faults.asc", Path(__file__).with_name("faults.asc").read_text())
UB_BYTES = {2201: 192 * 1024, 3510: 248 * 1024}


@pytest.fixture(scope="module")
def small(cache):
    built = {}

    def on(sku):
        arch = skus()[sku]
        if arch not in built:
            mutants = [mutant(SMALL, fault, "doubling", f"_{i}") for i, fault in enumerate(DOUBLING.values())]
            mutants = [replace(m, text=m.text.replace("UB_BYTES", str(UB_BYTES[arch]))) for m in mutants]
            built[arch] = Kernels([SMALL, *mutants], arch, cache)
        return built[arch]

    return on


@pytest.mark.parametrize("sku", ARCHS)
def test_the_small_kernel_is_right_as_it_stands(small, sku):
    x, out = normal(256), torch.full((256,), torch.nan)
    small(sku).launch("doubling", sku, 1, In(x), Out(out), 256)
    assert torch.equal(out, 2 * x)


@pytest.mark.parametrize("fault", DOUBLING)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault_of_the_small_kernel(small, sku, fault):
    suffix = f"_{list(DOUBLING).index(fault)}"
    expected = message(mutant(SMALL, DOUBLING[fault], "doubling", suffix), DOUBLING[fault][2])
    num_blocks = 2 if fault == "every block does everything" else 1
    with pytest.raises(KernelFault, match=f"^doubling{suffix} on {sku}, block [01]: {expected}"):
        small(sku).launch(f"doubling{suffix}", sku, num_blocks, In(normal(256)), Out(torch.zeros(256)), 256)


@pytest.fixture(scope="module")
def rms_norm(cache):
    source = Source.of("rms_norm")
    sources = [mutant(source, fault, "rms_norm_bf16", f"_{i}") for i, fault in enumerate(RMS_NORM.values())]
    return Kernels(sources, 2201, cache), sources


@pytest.mark.parametrize("fault", RMS_NORM)
def test_fault_of_rms_norm(rms_norm, fault):
    kernels, sources = rms_norm
    source = sources[list(RMS_NORM).index(fault)]
    x = normal(5, 301, dtype=torch.bfloat16)
    with pytest.raises(KernelFault, match=message(source, RMS_NORM[fault][2])):
        EmulatedOps(kernels, ARCHS[0], 1, suffix=source.suffix).rms_norm(x, x[0], 1e-6)


# Calls that manage a buffer and whose order other waits of the kernel imply.
IMPLIED = {"gate": ("x_queue_.template AllocTensor", "bias_queue_.template DeQue")}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("sku", ARCHS)
def test_every_wait_of_every_kernel_is_missed(emulated, sku, op):
    waits = small_run(emulated(sku, 1), op)[1]
    assert len(waits) > 8
    for wait in waits:
        file, line = wait.split(":")
        path = next(p for folder in ("ops", "common") if (p := ASCEND / folder / file).exists())
        text = path.read_text().splitlines()[int(line) - 1].strip()
        try:
            small_run(emulated(sku, 1, ignored_wait=wait), op)
        except KernelFault as fault:
            assert re.search(r"race: .* at \w+.*:\d+ \(pipe .* that .* at .*:\d+ \(pipe .*: no ", str(fault)), fault
        else:
            assert any(implied in text for implied in IMPLIED.get(op, ())), f"{wait} orders nothing: {text}"


def test_int32_overflow_of_an_offset(cache):
    """A row of more than 2^31 bytes, of which only the end is ever touched."""
    text = SMALL.text.replace("x_[row * n_", "x_[static_cast<int32_t>(row * n_ + (int64_t{1} << 31))")
    assert text != SMALL.text
    kernels = Kernels([SMALL, Source("faults.asc", text, "_int32")], 2201, cache)
    n = 2**29 + 64
    x, out = torch.empty(n), torch.zeros(8)
    x[-8:] = torch.arange(8.0)
    kernels.launch("tails", ARCHS[0], 1, In(x), Out(out), 1, n)
    assert out.tolist() == list(range(8))
    expected = r"is out of bounds: bytes -\d+ to -\d+ of x, which has \d+; a negative offset: an int32 overflow\?"
    with pytest.raises(KernelFault, match=expected):
        kernels.launch("tails_int32", ARCHS[0], 1, In(x), Out(out), 1, n)


def test_refused_launches(emulated):
    kernels, x = emulated(ARCHS[0]).kernels, normal(1, 8)
    with pytest.raises(KernelFault, match="unknown SKU ascend910a"):
        EmulatedOps(kernels, "ascend910a").rms_norm(x, None, 1e-6)
    with pytest.raises(KernelFault, match="ascend950dt_9591 is of another architecture"):
        EmulatedOps(kernels, ARCHS[1]).rms_norm(x, None, 1e-6)
    with pytest.raises(KernelFault, match=r"number of blocks must be in 1\.\.65535"):
        EmulatedOps(kernels, ARCHS[0], 0).rms_norm(x, None, 1e-6)
    with pytest.raises(TypeError, match="takes 6 arguments, got 1"):
        kernels.launch("rms_norm_fp32", ARCHS[0], 1, InOut(x))
