"""What the operators do at the edges that other implementations got wrong."""

import pytest
import torch

from v4npu import ops
from v4npu.testing.cases import arguments


def test_hc_pre_ends_with_columns():
    args = list(arguments("hc_pre"))
    args[6] = 1  # after many iterations rows and columns both sum to one
    _, _, comb = ops.hc_pre(*args)
    assert torch.allclose(comb.sum(-2), torch.ones(12, 4), atol=1e-5)
    assert not torch.allclose(comb.sum(-1), torch.ones(12, 4), atol=1e-2)


@pytest.mark.parametrize("official", [False, True])
def test_nan_scores_name_no_entry_that_is_not_there(official):
    args = list(arguments("indexer_topk", torch.bfloat16, official=official))
    args[0] = args[0].clone()
    args[0][3:9] = torch.nan
    picks = ops.indexer_topk(*args)
    visible = (torch.tensor([*range(9, 16), *range(5)]) + 1) // 4
    assert ((picks >= -1) & (picks < visible.unsqueeze(1))).all()


def test_each_query_of_a_prefill_picks_among_its_own_entries():
    args = list(arguments("indexer_topk"))
    args[7] = 4  # more than anyone sees
    positions = torch.tensor([*range(9, 16), *range(5)])
    for t, picks in zip(positions.tolist(), ops.indexer_topk(*args).tolist(), strict=True):
        assert sorted(p for p in picks if p >= 0) == list(range((t + 1) // 4))


def test_no_picks_are_no_entries():
    args = arguments("csa_attention")
    window = (*args[:3], *args[6:])
    assert torch.equal(ops.csa_attention(*args[:5], args[5][:, :0], *args[6:]), ops.window_attention(*window))
