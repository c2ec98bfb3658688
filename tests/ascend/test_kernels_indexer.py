"""Index scores on the emulated chips against the reference, and the plan on the device that deals them to cores."""

from __future__ import annotations

import pytest
import torch
from indexer_cases import indexer_case
from test_kernels import ARCHS
from torch import Tensor

from v4npu import reference
from v4npu.reference.pages import read_keys
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.tolerances import ERROR_RATIO

TILE, RECORD = 64, 4  # backends/ascend/common/query_plan.h


def assert_scores(got, args):
    exact = reference.indexer_scores(*oracle_args("indexer_scores", args[:-1]), False)
    naive = reference.indexer_scores(*args)
    seen = exact.isfinite()
    assert torch.equal(got.isneginf(), ~seen) and got[seen].isfinite().all()
    assert not complaint(got[seen], naive[seen], exact[seen], ERROR_RATIO["indexer_scores"])


@pytest.mark.parametrize("heads,dim,block_size", [(64, 128, 32), (20, 40, 24), (1, 32, 5), (3, 8, 128)])
@pytest.mark.parametrize("dtype,official", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize("sku", ARCHS)
def test_scores(emulated, sku, dtype, official, heads, dim, block_size):
    args = indexer_case(dtype, heads, dim, official=official, block_size=block_size)
    assert_scores(emulated(sku).indexer_scores(*args), args)


@pytest.mark.parametrize("heads,dim,block_size", [(64, 128, 32), (20, 70, 24), (1, 32, 5), (3, 64, 128)])
@pytest.mark.parametrize("packed", ["fp4", "fp8"])
@pytest.mark.parametrize("sku", ARCHS)
def test_packed_keys(emulated, sku, packed, heads, dim, block_size):
    """As their values in plain pages, to the bit; a NaN where nothing was written spoils no score."""
    for official in (False, True):
        args = list(indexer_case(torch.bfloat16, heads, dim, official=official, block_size=block_size, packed=packed))
        got = emulated(sku).indexer_scores(*args)
        assert_scores(got, args)
        at = torch.arange(args[2].shape[:2].numel()).view(args[2].shape[:2])
        args[2] = read_keys(args[2], at, dim)
        assert torch.equal(got, emulated(sku).indexer_scores(*args))


@pytest.mark.parametrize("dtype,packed", [(torch.float32, ""), (torch.bfloat16, "fp4"), (torch.bfloat16, "fp8")])
@pytest.mark.parametrize("sku", ARCHS)
def test_queries_that_share_a_tile_of_keys_score_as_those_that_do_not(emulated, sku, dtype, packed):
    """Of the first queries of a sequence some see no entry, of all some see but half a tile."""
    args = indexer_case(dtype, 5, 32, ((13, 500), (17, 0), (1, 9)), official=True, packed=packed)
    cu, start, ratio, width = *args[4:7], args[3].shape[1] * args[2].shape[1]
    together = [emulated(sku, n).indexer_plan(cu, start, 31, ratio, width)[3] for n in (1, 255)]
    assert together == [8, 1]
    got = emulated(sku, 1).indexer_scores(*args)
    assert_scores(got, args)
    assert torch.equal(got, emulated(sku, 255).indexer_scores(*args))


@pytest.mark.parametrize("packed", ["", "fp4", "fp8"])
@pytest.mark.parametrize("sku", ARCHS)
def test_many_tiles_that_half_the_cores_have_nothing_of(emulated, sku, packed):
    """Nothing to do holds a core back like the rest, or its flags would overflow."""
    args = indexer_case(torch.bfloat16, 5, 32, ((1, 40),) * 20, packed=packed)
    assert_scores(emulated(sku, 1).indexer_scores(*args), args)


def work(cu: Tensor, start: Tensor, ratio: int, width: int, together: int) -> list[tuple[int, int, int]]:
    """(sequence, token, tile) of every tile that the last query of those taken together sees."""
    found = []
    for b, (lo, hi) in enumerate(zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)):
        for token in range(lo, hi, together):
            visible = min((int(start[b]) + min(token + together, hi) - lo) // ratio, width)
            found += [(b, token, tile) for tile in range(-(-visible // TILE))]
    return found


@pytest.mark.parametrize("blocks", [1, 2, 5, 36, 255])  # as chips that exist and invented ones have cores
@pytest.mark.parametrize("lengths", [((3, 4000), (0, 9), (7, 20), (1, 131072)), ((1, 0),), ((40, 0), (2, 900))])
def test_the_plan_deals_every_tile_once_and_evenly(emulated, lengths, blocks):
    *_, cu, start, ratio, _ = indexer_case(torch.float32, 1, 8, lengths)
    tokens, width = int(cu[-1]), 40000
    plan = emulated(ARCHS[0], blocks).indexer_plan(cu, start, tokens, ratio, width)
    records = plan[: RECORD * (blocks + 1)].view(-1, RECORD).tolist()
    together = records[0][3]
    wanted = work(cu, start, ratio, width, together)
    assert together == 1 or len(wanted) >= 8 * blocks
    begins = [wanted.index((b, t, tile)) if t < tokens else len(wanted) for b, t, tile, _ in records]
    assert begins == [len(wanted) * c // blocks for c in range(blocks + 1)]
    assert not plan[RECORD * (blocks + 1) :].any()


@pytest.mark.parametrize("sku", ARCHS)
def test_lengths_of_zero_read_no_key(emulated, sku):
    args = list(indexer_case(torch.bfloat16, 4, 32, lengths=((2, 0), (0, 0), (1, 2)), block_size=2))
    args[2], args[3] = args[2][:0], torch.full((3, 4), -1, dtype=torch.int32)
    assert emulated(sku).indexer_scores(*args).isneginf().all()
