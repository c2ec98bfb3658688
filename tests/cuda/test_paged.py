"""CUDA kernels over pages, emulated: a token's result depends on its own sequence alone, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu import reference
from v4npu.reference.formats import round_fp4
from v4npu.testing.cases import Draw, int32
from v4npu.testing.cuda import FLOAT32_ON_TENSOR_CORES, EmulatedGpu
from v4npu.testing.paging import paged

BF16 = torch.bfloat16
RATIO, HEADS = 4, 20
KIND = ("plain", "fp4_key")  # of keys
LENGTHS, STARTS = (9, 0, 1, 34), (30, 5, 3, 0)  # of four sequences, one without tokens in this call


def problem(dim: int, packed: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    draw, tokens = Draw(BF16, dim), sum(LENGTHS)
    keys = [draw.normal((n + s) // RATIO, dim) for n, s in zip(LENGTHS, STARTS, strict=True)]
    q = draw.normal(tokens, HEADS, dim)
    return q, draw.normal(tokens, HEADS), [round_fp4(k) for k in keys] if packed else keys


def run(
    gpu: EmulatedGpu, q: Tensor, weights: Tensor, keys: tuple[Tensor, Tensor], where: tuple, official: bool
) -> Tensor:
    (out,) = gpu.run("indexer_scores", (q, weights, *keys, *where, RATIO, official))
    assert gpu.launches()
    return out


@pytest.mark.parametrize("packed,official", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dim", [32, 128])
def test_indexer_scores_of_ragged_sequences(gpu: EmulatedGpu, dim: int, packed: bool, official: bool) -> None:
    q, weights, keys = problem(dim, packed)
    cu, start = int32(0, *torch.tensor(LENGTHS).cumsum(0).tolist()), int32(*STARTS)
    cached = paged(keys, 2, KIND[packed])
    got = run(gpu, q, weights, cached, (cu, start), official)
    assert "_tile_" in gpu.launches()[0][0]  # the first 32 tokens are of several sequences, the others of one
    naive = reference.indexer_scores(q, weights, *cached, cu, start, RATIO, official)
    wide_pages = cached if packed else (cached[0].double(), cached[1])
    exact = reference.indexer_scores(q.double(), weights.double(), *wide_pages, cu, start, RATIO, official)
    seen = naive.isfinite()
    assert torch.equal(got.isfinite(), seen) and bool((got[~seen] == -torch.inf).all())
    allowed = FLOAT32_ON_TENSOR_CORES * (naive.double() - exact)[seen].abs().max() + 2.0**-24 * exact[seen].abs().max()
    assert (got.double() - exact)[seen].abs().max() <= allowed

    # Each token by itself, in pages of another size.
    other = paged(keys, 3, KIND[packed])
    for b, (lo, n) in enumerate(zip(cu.tolist(), LENGTHS, strict=False)):
        for i in range(0, n, 6):
            one = slice(lo + i, lo + i + 1)
            place = (int32(0, 1), int32(STARTS[b] + i))
            alone = run(gpu, q[one], weights[one], (other[0], other[1][b : b + 1]), place, official)[0]
            assert "_tile_" not in gpu.launches()[0][0]
            known = (STARTS[b] + i + 1) // RATIO
            assert torch.equal(alone[:known], got[lo + i, :known])


def test_a_key_that_is_not_visible_is_never_read(gpu: EmulatedGpu) -> None:
    q, weights, keys = problem(128, True)
    cache, table = paged(keys[:1], 2, "fp4_key")
    start = int32(7)
    args = (q[:1], weights[:1], (cache, table), (int32(0, 1), start), True)
    got = run(gpu, *args)
    table = table.clone()
    table[0, 1:] = 1 << 30  # a page that does not exist
    assert torch.equal(run(gpu, q[:1], weights[:1], (cache, table), (int32(0, 1), start), True), got)
