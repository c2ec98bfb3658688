"""The emulated cube core, by a matmul in the layouts of both architectures; its faults."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fault_list import mutant
from test_kernels import ARCHS, normal

from v4npu.emulated_kernels import Source, skus
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

MATMUL = Source("matmul.asc", Path(__file__).with_name("matmul.asc").read_text())

# name: (text, replacement, message)
FAULTS = {
    "L0A overflows by 32 bytes": (
        "InitBuffer(a2_queue_, 2, kTile * kTile * sizeof(bfloat16_t))", "InitBuffer(a2_queue_, 1, 64 * 1024 + 32)",
        r"InitBuffer at matmul\.asc:\d+: 65568 bytes of L0A needed, 32 more than the 65536 there are",
    ),
    "L1 overflows": (
        "InitBuffer(a1_queue_, 2, kTile * kTile * sizeof(bfloat16_t))", "InitBuffer(a1_queue_, 8, 65536)",
        r"InitBuffer at matmul\.asc:\d+: 532480 bytes of L1 needed, 8192 more than the 524288 there are",
    ),
    "vector core": (
        "KERNEL_TYPE_AIC_ONLY", "KERNEL_TYPE_AIV_ONLY", r"InitBuffer at matmul\.asc:\d+: a vector core has no L1",
    ),
    "rows that were never loaded": (
        "MmadParams(max_of(rows, 2), columns", "MmadParams(rows + 1, columns",
        r"Mmad at matmul\.asc:\d+ \(pipe M\) reads byte \d+ of the A2 queue of .*, which nothing has written",
    ),
    "one row in fractals": (
        "if (rows == 1) {", "if (rows == 99) {",
        r"Mmad at .* reads byte \d+ of the A2 queue of .*, which nothing has written",
    ),
}  # fmt: skip


@functools.cache
def built(arch, cache):
    faulty = [mutant(MATMUL, fault, "matmul", f"_{i}", arch) for i, fault in enumerate(FAULTS.values())]
    # the other architecture's L0A
    other = MATMUL.text.replace("#if __NPU_ARCH__ == 2201", "#if __NPU_ARCH__ != 2201")
    return Kernels([MATMUL, *faulty, replace(MATMUL, text=other, suffix="_other")], arch, cache)


def matmul(cache, sku, suffix="", num_blocks=1, m=20, n=80, k=200, **options):
    """The product, the exact one and the report."""
    a, b = normal(m, k, dtype=torch.bfloat16), normal(n, k, dtype=torch.bfloat16, seed=1)
    out, kernels = torch.full((m, n), torch.nan), built(skus()[sku], cache)
    report = kernels.launch(f"matmul{suffix}", sku, num_blocks, In(a), In(b), Out(out), m, n, k, **options)
    return out.double(), a.double() @ b.double().T, report


@pytest.mark.parametrize("sizes", [(1, 16, 1), (16, 16, 16), (64, 64, 64), (100, 80, 200), (17, 128, 65), (70, 192, 7)])
@pytest.mark.parametrize("sku", ARCHS)
def test_matmul(cache, sku, sizes):
    m, n, k = sizes
    for num_blocks in (1, 3):
        out, exact, _ = matmul(cache, sku, num_blocks=num_blocks, m=m, n=n, k=k)
        assert (out - exact).abs().max() <= 1e-6 * k**0.5 * 16


@pytest.mark.parametrize("sku", ARCHS)
def test_the_layout_of_the_other_architecture_gives_another_product(cache, sku):
    out, exact, _ = matmul(cache, sku, "_other", m=32)
    assert (out - exact).abs().max() > 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault(cache, sku, fault):
    with pytest.raises(KernelFault, match=FAULTS[fault][2]):
        matmul(cache, sku, f"_{list(FAULTS).index(fault)}", m=1 if "one row" in fault else 20)


@pytest.mark.parametrize("sku", ARCHS)
def test_every_wait_is_missed(cache, sku):
    # MTE1 loads both operands in order, so the wait for the second implies that for the first.
    implied = ("a2_queue_.DeQue", "b2_queue_.AllocTensor")
    for wait in matmul(cache, sku, k=300)[2].waits:
        line = MATMUL.text.splitlines()[int(wait.split(":")[1]) - 1]
        try:
            matmul(cache, sku, k=300, ignored_wait=wait)
        except KernelFault as fault:
            assert re.search(r"race: .* at matmul\.asc:\d+ \(pipe .* that .* at matmul\.asc:\d+ .*: no ", str(fault))
        else:
            assert any(text in line for text in implied), f"{wait} orders nothing: {line.strip()}"
