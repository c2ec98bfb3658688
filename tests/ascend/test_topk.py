"""The top-k kernels and the sorting in them: exact, the smaller index first among equal scores; seeded faults."""

from __future__ import annotations

import pytest
import torch
from fault_list import Faults, message, mutant
from indexer_cases import indexer_case
from test_kernels import ARCHS, normal

from v4npu import reference
from v4npu.emulated_kernels import Source, skus
from v4npu.testing.ascend import KernelFault, Kernels
from v4npu.testing.ascend_ops import EmulatedOps

TOPK = Source.of("indexer_topk")

FAULTS: Faults = {
    "scores not aligned": (
        "Get<float>(), score, index.ReinterpretCast<uint32_t>(), kTopkTile / kRun",
        "Get<float>(), score[8], index.ReinterpretCast<uint32_t>(), 1",
        r"Sort32 at <AscendC::Sort32> \(pipe V\): misaligned, byte 32 of the VECIN queue of <InitBuffer(score_queue_>,"
        r" buffer 0 is not a multiple of 128 bytes",
    ),
    "pairs not aligned": (
        "Sort32(pair_buffer_[0].Get<float>(), score, index.ReinterpretCast<uint32_t>(), kTopkTile / kRun",
        "Sort32(pair_buffer_[0].Get<float>()[8], score, index.ReinterpretCast<uint32_t>(), 1",
        r"Sort32 at <AscendC::Sort32> \(pipe V\): misaligned, byte 32 of the buffer of .* not a multiple of 256 bytes",
    ),
    "destination overflows": (
        "kTopkTile / kRun);", "kTopkTile / kRun + 1);",
        r"Sort32 at <kTopkTile / kRun> \(pipe V\) overflows by 128 bytes: 8320 from byte 0 of the VECIN queue",
    ),
    "too many repeats": (
        "best(), kept_ / kRun", "best(), 256", r"Extract at <best(), 256> \(pipe V\): more than 255 repeats",
    ),
    "queue too long": (
        "lengths[4] = {kept_, kept_, 0, 0}", "lengths[4] = {4096, kept_, 0, 0}",
        r"MrgSort at <AscendC::MrgSort(best> \(pipe V\): a queue of more than 4095 pairs",
    ),
    "wrong queues": (
        "MrgSort4Info(lengths, false, 3, 1)", "MrgSort4Info(lengths, false, 2, 1)",
        r"MrgSort at <AscendC::MrgSort(best> \(pipe V\): validBit must be 3, 7 or 15",
    ),
    "queue that is not sorted": (
        "merge_by_fours(0, 4 * kRun);", "merge_by_fours(0, 16 * kRun);",
        r"MrgSort at <AscendC::MrgSort(pair> \(pipe V\): a queue that is not sorted",
    ),
    "merge in place": (
        "AscendC::MrgSort(pair_buffer_[to].Get<float>(),", "AscendC::MrgSort(from,",
        r"MrgSort at <AscendC::MrgSort(from> \(pipe V\): byte 0 of the buffer of .* overlaps a source",
    ),
    "queues apart": (
        "from[step], from[2", "from[step + 2], from[2",
        r"MrgSort at <AscendC::MrgSort(pair> \(pipe V\): repeats want four queues of a length, one behind the other",
    ),
    "sorts a NaN": (
        "    put_in_order(score, what);\n", "    (void)what;\n", r"Sort32 at <AscendC::Sort32> \(pipe V\): a NaN",
    ),
}  # fmt: skip


def picks(scores, k):
    """The k best as the contract has them; a NaN is the largest, for torch too."""
    found, index = (x[:, :k] for x in scores.sort(dim=1, descending=True, stable=True))
    return torch.nn.functional.pad(index.masked_fill(found == -torch.inf, -1), (0, k - index.shape[1]), value=-1).int()


def seen(scores, first=0):
    """Three queries in a row see all but two of the scores, all but one, and all."""
    n = scores.shape[1]
    hidden = torch.arange(n) >= n - 2 + torch.arange(len(scores))[:, None]
    return (
        scores.masked_fill(hidden, -torch.inf),
        torch.tensor([0, first + 3]).int(),
        torch.tensor([n - 3 - first]).int(),
    )


@pytest.mark.parametrize("n,k,parts", [
    (3, 1, 1), (33, 32, 1), (2047, 5, 4), (2048, 512, 1), (2050, 1024, 3), (9000, 100, 2), (6200, 2048, 3),
])  # fmt: skip
@pytest.mark.parametrize("sku", ARCHS)
def test_exact_and_the_smaller_index_first(emulated, sku, n, k, parts):
    coarse = (2 * normal(3, n)).round()  # many equal scores, zeros of both signs
    coarse[1, : n // 2] = -torch.inf
    broken = coarse.clone()
    largest = torch.finfo(torch.float32).max
    odd = torch.tensor([largest, torch.nan, torch.inf, -torch.nan, -0.0, -largest])
    broken[:, ::3] = odd.repeat(n)[: len(broken[0, ::3])]
    for scores in (normal(3, n), coarse, broken, broken.nan_to_num(-torch.inf, torch.inf, -torch.inf)):
        for first in (0, 2):
            visible, cu, start = seen(scores, first)
            got = emulated(sku).indexer_select(scores, cu, start, 1, k, first, parts)
            assert torch.equal(got, picks(visible, k))


@pytest.mark.parametrize("dtype,official", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize("sku", ARCHS)
def test_picks_of_ragged_queries_however_they_are_dealt(emulated, sku, dtype, official):
    """Small integers, whose scores are exact and often equal; a token is behind the last sequence."""
    lengths = ((3, 9000), (0, 9), (7, 20), (1, 8300), (2, 0))
    q, weights, keys, *rest, _ = indexer_case(dtype, 3, 16, lengths, official=official)
    args = (q.round(), weights.round(), keys.round(), *rest)
    for topk, parts, at_a_time in ((512, 1, 13), (40, 2, 4), (512, 3, 13)):
        wanted = reference.indexer_topk(*args, topk, official)
        assert torch.equal(emulated(sku).indexer_topk(*args, topk, official, at_a_time, parts), wanted)
    cu = args[4] - (args[4] == 13).int()
    got = emulated(sku).indexer_topk(*args[:4], cu, *args[5:], 9, official, 13, 2)
    assert (got[12] == -1).all() and torch.equal(got[:12], emulated(sku).indexer_topk(*args, 9, official, 13, 1)[:12])


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(cache, fault):
    mutants = [mutant(TOPK, fault, "indexer_topk_select", f"_{i}") for i, fault in enumerate(FAULTS.values())]
    place = list(FAULTS).index(fault)
    ops = EmulatedOps(Kernels(mutants, skus()[ARCHS[0]], cache), ARCHS[0], 2, suffix=f"_{place}")
    scores = normal(3, 5000)
    scores[0, 7] = torch.nan
    with pytest.raises(KernelFault, match=message(mutants[place], FAULTS[fault][2])):
        ops.indexer_select(scores, *seen(scores)[1:], 1, 64)
