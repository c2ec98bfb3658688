"""CUDA kernels over pages, emulated: a token's result depends on its own sequence alone, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu import reference
from v4npu.reference import pages
from v4npu.testing.cases import Draw, int32
from v4npu.testing.cuda import FLOAT32_ON_TENSOR_CORES, EmulatedGpu
from v4npu.testing.paging import paged, rounded_keys, spread_scales

BF16 = torch.bfloat16
RATIO, HEADS = 4, 20
LENGTHS, STARTS = (9, 0, 1, 34), (30, 5, 3, 0)  # of four sequences, one without tokens in this call


def problem(dim: int, kind: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    draw, tokens = Draw(BF16, dim), sum(LENGTHS)
    keys = [draw.normal((n + s) // RATIO, dim) for n, s in zip(LENGTHS, STARTS, strict=True)]
    q = draw.normal(tokens, HEADS, dim)
    return q, draw.normal(tokens, HEADS), [rounded_keys(k, kind) for k in keys]


def run(
    gpu: EmulatedGpu, q: Tensor, weights: Tensor, keys: tuple[Tensor, Tensor], where: tuple, official: bool
) -> Tensor:
    (out,) = gpu.run("indexer_scores", (q, weights, *keys, *where, RATIO, official))
    assert gpu.launches()
    return out


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("dim,kind", [(32, "plain"), (128, "plain"), (32, "fp4_key"), (128, "fp4_key"),
                                      (36, "fp8_key"), (128, "fp8_key")])  # fmt: skip
def test_indexer_scores_of_ragged_sequences(gpu: EmulatedGpu, dim: int, kind: str, official: bool) -> None:
    q, weights, keys = problem(dim, kind)
    cu, start = int32(0, *torch.tensor(LENGTHS).cumsum(0).tolist()), int32(*STARTS)
    cached = paged(keys, 2, kind)
    got = run(gpu, q, weights, cached, (cu, start), official)
    assert "_tile_" in gpu.launches()[0][0]  # the first 32 tokens are of several sequences, the others of one
    naive = reference.indexer_scores(q, weights, *cached, cu, start, RATIO, official)
    wide_pages = (cached[0].double(), cached[1]) if kind == "plain" else cached
    exact = reference.indexer_scores(q.double(), weights.double(), *wide_pages, cu, start, RATIO, official)
    seen = naive.isfinite()
    assert torch.equal(got.isfinite(), seen) and bool((got[~seen] == -torch.inf).all())
    allowed = FLOAT32_ON_TENSOR_CORES * (naive.double() - exact)[seen].abs().max() + 2.0**-24 * exact[seen].abs().max()
    assert (got.double() - exact)[seen].abs().max() <= allowed

    # Each token by itself, in pages of another size.
    other = paged(keys, 3, kind)
    for b, (lo, n) in enumerate(zip(cu.tolist(), LENGTHS, strict=False)):
        for i in range(0, n, 6):
            one = slice(lo + i, lo + i + 1)
            place = (int32(0, 1), int32(STARTS[b] + i))
            alone = run(gpu, q[one], weights[one], (other[0], other[1][b : b + 1]), place, official)[0]
            assert "_tile_" not in gpu.launches()[0][0]
            known = (STARTS[b] + i + 1) // RATIO
            assert torch.equal(alone[:known], got[lo + i, :known])


def test_a_key_that_is_not_visible_is_never_read(gpu: EmulatedGpu) -> None:
    q, weights, keys = problem(128, "fp4_key")
    cache, table = paged(keys[:1], 2, "fp4_key")
    start = int32(7)
    args = (q[:1], weights[:1], (cache, table), (int32(0, 1), start), True)
    got = run(gpu, *args)
    table = table.clone()
    table[0, 1:] = 1 << 30  # a page that does not exist
    assert torch.equal(run(gpu, q[:1], weights[:1], (cache, table), (int32(0, 1), start), True), got)


@pytest.mark.parametrize("official", [False, True])
def test_fp8_keys_of_any_scale_are_their_products_in_bfloat16(gpu: EmulatedGpu, official: bool) -> None:
    q, weights, (keys, *_) = problem(64, "fp8_key")
    cache, table = paged([keys], 3, "fp8_key")
    spread_scales(cache, 64)
    values = pages.read_keys(cache, pages.slots(table[0], torch.arange(len(keys)), 3), 64)
    where = (int32(0, 9), int32(30))
    got = run(gpu, q[:9], weights[:9], (cache, table), where, official)
    assert torch.equal(got, run(gpu, q[:9], weights[:9], paged([values], 3), where, official))
