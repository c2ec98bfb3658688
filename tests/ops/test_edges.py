"""What the operators do at the edges that other implementations got wrong."""

import pytest
import torch

from v4npu import _C, ops
from v4npu.testing.cases import arguments, sized


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernel", "reference"])
@pytest.mark.parametrize("official", [False, True])
def test_no_picks_are_no_entries(dtype, official):
    args = arguments("csa_attention", dtype, official=official)
    wanted = ops.window_attention(*args[:3], *args[6:])
    for none in (args[5][:, :0], torch.full_like(args[5], -1), torch.full_like(args[5], -2)):
        assert torch.equal(ops.csa_attention(*args[:5], none, *args[6:]), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("heads, dim", [(3, 0), (0, 16)])
@pytest.mark.usefixtures("isa")
def test_scores_of_nothing_are_zero(heads, dim, official, dtype):
    q, weights, keys = torch.ones(5, heads, dim, dtype=dtype), torch.ones(5, heads, dtype=dtype), torch.ones(40, 1, dim)
    table, tokens, start = (torch.tensor(v, dtype=torch.int32) for v in ([[*range(40)]], [0, 5], [35]))
    scores = ops.indexer_scores(q, weights, keys.to(dtype), table, tokens, start, 1, official)
    assert torch.equal(
        scores, torch.zeros(5, 40).masked_fill(torch.arange(40) > torch.arange(35, 40)[:, None], -torch.inf)
    )


@pytest.mark.parametrize("op", [op for op in _C.op_names() if op not in ("fp4_act_quant", "indexer_topk")])
def test_no_tokens_have_a_gradient_too(op):
    args = list(sized(op, 0, 16))
    args[0] = args[0].clone().requires_grad_()
    out = getattr(ops, op)(*args)
    assert any(r.requires_grad for r in (out if isinstance(out, tuple) else (out,)))


@pytest.mark.parametrize("op", ["indexer_scores", "indexer_topk"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["reference", "kernel"])
def test_a_sequence_without_tokens_has_no_entries_to_read(op, dtype):
    args = list(sized(op, 0, 16, dtype))
    args[5] = torch.tensor([2**31 - 2], dtype=torch.int32)
    assert len(getattr(ops, op)(*args)) == 0


@pytest.mark.parametrize(("op", "at"), [("compressor", 15), ("compressor", 7), ("qkv_prepare", 7)])
def test_what_is_written_to_cannot_require_grad(op, at):
    args = list(arguments(op))
    args += {"compressor": [torch.zeros(4, 2, 32), torch.arange(3)], "qkv_prepare": [torch.zeros(3, 5, 80), None]}[op]
    args[-1] = torch.arange(12) if op == "qkv_prepare" else args[-1]
    args[at] = args[at].clone().requires_grad_()
    before = args[7].clone()
    with pytest.raises(ValueError, match=rf"v4npu\.{op}: \w+ is written to, so it must not require grad"):
        getattr(ops, op)(*args)
    assert torch.equal(args[7], before)


def test_frequencies_whose_count_overflows_are_refused():
    args = list(arguments("rope"))
    args[2] = torch.zeros(1).expand(2**62)
    with pytest.raises(ValueError, match=r"v4npu\.rope: freqs must be float32 \[rope_dim/2\] with rope_dim at most"):
        ops.rope(*args)


@pytest.mark.parametrize("op", ["indexer_scores", "indexer_topk"])
def test_keys_of_an_odd_number_of_values_are_not_packed_as_fp4(op):
    """Two values share a byte: the last would be left out."""
    args = list(arguments(op, torch.bfloat16, official=True))
    args[0] = args[0][..., :7]
    args[2] = torch.zeros(*args[2].shape[:2], 7 // 2 + 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"v4npu\.{op}: keys must be packed rows of 11 \(FP8\) bytes, got uint8 \["):
        getattr(ops, op)(*args)
