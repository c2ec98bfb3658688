"""Launchers of the operators over pages that have several launches, against the reference."""

from __future__ import annotations

import pytest
import torch

import v4npu
from v4npu import ops, reference


@pytest.mark.parametrize(
    ("start", "blocks"), [(40000, 160), (900, 1 << 17)], ids=["parts of a token", "tokens one after the other"]
)
def test_picks_are_those_of_all_scores_at_once(start: int, blocks: int) -> None:
    """Exact scores, many of them equal; room for 2^23 entries is more than scores of three tokens may take."""
    q, weights, keys = (torch.randint(-3, 4, shape).float() for shape in ((3, 4, 16), (3, 4), (160, 64, 16)))
    table = torch.arange(blocks).clamp(max=159).int()[None]
    where = table, torch.tensor([0, 3]).int(), torch.tensor([start]).int()
    with v4npu.fallback("error"):
        got = ops.indexer_topk(*(t.npu() for t in (q, weights, keys, *where)), 4, 600, False)
    assert torch.equal(got.cpu(), reference.indexer_topk(q, weights, keys, *where, 4, 600, False))
