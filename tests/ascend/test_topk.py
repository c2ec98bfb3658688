"""Sorting and the top-k kernel made of it: exact, the smaller index first among equal scores; its seeded faults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fault_list import Faults, message, mutant
from test_kernels import ARCHS, normal

from v4npu.testing.ascend import In, KernelFault, Kernels, Out, Source, skus

TOPK = Source("topk.asc", Path(__file__).with_name("topk.asc").read_text())

FAULTS: Faults = {
    "scores not aligned": (
        "Get<float>(), in, index.ReinterpretCast<uint32_t>(), kTile / kRun",
        "Get<float>(), in[8], index.ReinterpretCast<uint32_t>(), 1",
        r"Sort32 at <AscendC::Sort32> \(pipe V\): misaligned, byte 32 of the VECIN queue of <InitBuffer(score_queue_>,"
        r" buffer 0 is not a multiple of 128 bytes",
    ),
    "pairs not aligned": (
        "Sort32(pair_buffer_[0].Get<float>(), in, index.ReinterpretCast<uint32_t>(), kTile / kRun",
        "Sort32(pair_buffer_[0].Get<float>()[8], in, index.ReinterpretCast<uint32_t>(), 1",
        r"Sort32 at <AscendC::Sort32> \(pipe V\): misaligned, byte 32 of the buffer of .* not a multiple of 256 bytes",
    ),
    "destination overflows": (
        "kTile / kRun);", "kTile / kRun + 1);",
        r"Sort32 at <kTile / kRun> \(pipe V\) overflows by 128 bytes: 8320 from byte 0 of the VECIN queue",
    ),
    "too many repeats": (
        "best, kept_ / kRun", "best, 256", r"Extract at <best, 256> \(pipe V\): more than 255 repeats",
    ),
    "queue too long": (
        "lengths[4] = {kept_, kept_, 0, 0}", "lengths[4] = {4096, kept_, 0, 0}",
        r"MrgSort at <AscendC::MrgSort(merged> \(pipe V\): a queue of more than 4095 pairs",
    ),
    "wrong queues": (
        "MrgSort4Info(lengths, false, 3, 1)", "MrgSort4Info(lengths, false, 2, 1)",
        r"MrgSort at <AscendC::MrgSort(merged> \(pipe V\): validBit must be 3, 7 or 15",
    ),
    "queue that is not sorted": (
        "pair_buffer_[1].Get<float>(), 4 * kRun);", "pair_buffer_[1].Get<float>(), 16 * kRun);",
        r"MrgSort at <AscendC::MrgSort(to> \(pipe V\): a queue that is not sorted",
    ),
    "merge in place": (
        "(pair_buffer_[1].Get<float>(), pair_buffer_[0]", "(pair_buffer_[0].Get<float>(), pair_buffer_[0]",
        r"MrgSort at <AscendC::MrgSort(to> \(pipe V\): byte 0 of the buffer of .* overlaps a source",
    ),
    "queues apart": (
        "from[step], from[2", "from[step + 2], from[2",
        r"MrgSort at <AscendC::MrgSort(to> \(pipe V\): repeats want four queues of a length, one behind the other",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def topk(cache):
    built = {}

    def on(sku, scores, k, suffix="", num_blocks=2, **options):
        arch = skus()[sku]
        if arch not in built:
            mutants = [mutant(TOPK, fault, "topk", f"_{i}") for i, fault in enumerate(FAULTS.values())]
            built[arch] = Kernels([TOPK, *(mutants if arch == 2201 else [])], arch, cache)
        rows, n = scores.shape
        values, indices = torch.full((rows, k), torch.nan), torch.full((rows, k), -7, dtype=torch.int32)
        arguments = (In(scores), Out(values), Out(indices), rows, n, k)
        report = built[arch].launch(f"topk{suffix}", sku, num_blocks, *arguments, **options)
        return values, indices, report

    return on


@pytest.mark.parametrize("n,k", [(1, 1), (33, 32), (2047, 5), (2048, 512), (2049, 1024), (6000, 100), (4104, 1)])
@pytest.mark.parametrize("sku", ARCHS)
def test_exact_and_the_smaller_index_first(topk, sku, n, k):
    coarse = (2 * normal(3, n)).round()  # many equal scores, zeros of both signs
    coarse[1, : n // 2] = -torch.inf
    for scores in (normal(3, n), coarse):
        values, indices, report = topk(sku, scores, k)
        exact = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(values, exact.values[:, :k])
        assert torch.equal(indices.long(), exact.indices[:, :k])
        stated = int(re.search(r"total (\d+)", TOPK.text)[1])
        assert report.ub_bytes == stated


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(topk, fault):
    suffix = f"_{list(FAULTS).index(fault)}"
    expected = message(mutant(TOPK, FAULTS[fault], "topk", suffix), FAULTS[fault][2])
    with pytest.raises(KernelFault, match=expected):
        topk(ARCHS[0], normal(1, 5000), 64, suffix)


def test_nan_is_refused(topk):
    with pytest.raises(KernelFault, match=r"Sort32 at .*: a NaN"):
        topk(ARCHS[0], torch.full((1, 4), torch.nan), 1)


@pytest.mark.parametrize("sku", ARCHS)
def test_every_wait_is_missed(topk, sku):
    scores = normal(5, 5000)
    for wait in topk(sku, scores, 64, num_blocks=1)[2].waits:
        with pytest.raises(KernelFault, match=r"race: .* at topk\.asc:\d+ .*: no "):
            topk(sku, scores, 64, num_blocks=1, ignored_wait=wait)
