"""The worked numbers of the specification: mHC, RoPE frequencies, router scores, index lists, Hadamard."""

import pytest
import torch

from v4npu import ops
from v4npu.reference.gate import router_scores
from v4npu.reference.hyper_connection import sinkhorn
from v4npu.reference.rope import rope_frequencies


def test_hc_pre():
    j = torch.arange(24)
    m, scale, base = 0.1 * (j - 12), (1.0, 0.5, 2.0), 0.05 * ((7 * j) % 5 - 2)
    # Streams of RMS 1 whose flattened product with fn is m.
    streams = torch.ones(1, 4, 8)
    fn = (m / 32).unsqueeze(1).expand(24, 32).contiguous()
    y, post, comb = ops.hc_pre(streams, fn, torch.tensor(scale), base, 0.0, 1e-6, 20)
    pre = (0.21416599, 0.24974088, 0.28905150, 0.27888584)
    assert torch.allclose(y, torch.full_like(y, sum(pre)), atol=1e-6)
    assert torch.allclose(post[0], torch.tensor([0.82676488, 0.77872151, 0.85111499, 0.92514032]), atol=1e-6)
    assert torch.allclose(comb[0, 0], torch.tensor([0.24572845, 0.26182425, 0.23062214, 0.26182425]), atol=1e-6)
    assert torch.allclose(comb[0, 3], torch.tensor([0.23062219, 0.24572840, 0.27791998, 0.24572845]), atol=1e-6)


def test_sinkhorn_ends_with_columns():
    comb = sinkhorn(torch.randn(5, 4, 4, dtype=torch.float64) * 3, 1e-6, 20)
    assert torch.allclose(comb.sum(-2), torch.ones(5, 4, dtype=torch.float64), atol=2e-6)


def test_hc_post_sums_over_the_first_index():
    streams, comb = torch.randn(2, 4, 3), torch.randn(2, 4, 4)
    out = ops.hc_post(torch.zeros(2, 3), streams, torch.zeros(2, 4), comb)
    assert torch.allclose(out, torch.einsum("tjk,tjd->tkd", comb, streams), atol=1e-6)


def test_yarn_frequencies():
    f = rope_frequencies(64, 160000.0, factor=16, original_max_position=65536)
    golden = {
        1: 0.687656045, 15: 0.00363553874, 16: 0.00226562493, 20: 2.96977785e-4,
        24: 1.95312532e-5, 25: 5.37231244e-6, 31: 5.6805294e-7,
    }  # fmt: skip
    for i, value in golden.items():
        assert f[i].item() == pytest.approx(value, rel=2e-6)
    plain = rope_frequencies(64, 10000.0)
    assert plain[1].item() == pytest.approx(10000 ** (-2 / 64), rel=1e-6)


def test_rope_inverse_and_pairs():
    x, positions, f = torch.randn(5, 2, 96), torch.arange(5), rope_frequencies(64, 10000.0)
    y = ops.rope(x, positions, f)
    assert torch.equal(y[..., :32], x[..., :32])
    assert torch.allclose(ops.rope(y, positions, f, inverse=True), x, atol=1e-6)
    turned = torch.view_as_complex(x[..., 32:].unflatten(-1, (32, 2)).contiguous()) * torch.polar(
        torch.ones(5, 1, 32), positions.view(5, 1, 1) * f
    )
    assert torch.allclose(torch.view_as_real(turned).flatten(-2), y[..., 32:], atol=1e-6)


def test_router_scores():
    s = router_scores(torch.tensor([[0.0], [1.0], [-3.0]]), torch.ones(1, 1)).flatten()
    assert torch.allclose(s, torch.tensor([0.83255458, 1.14597631, 0.22042540]), atol=1e-7)


def test_hadamard_is_sylvester():
    n = 128
    i = torch.arange(n)
    popcount = torch.tensor([[bin(int(a) & int(b)).count("1") for b in i] for a in i])
    assert torch.allclose(ops.hadamard(torch.eye(n)), (-1.0) ** popcount * n**-0.5, atol=1e-6)


@pytest.mark.parametrize("t,entries", [(2, []), (3, [0]), (6, [0]), (7, [0, 1]), (11, [0, 1, 2])])
def test_visible_entries(t, entries):
    """An entry is visible to the very token that completes it (ratio 4)."""
    q, w, keys = torch.rand(1, 1, 32), torch.ones(1, 1), torch.rand(1, 4, 32)
    table, cu = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    picks = ops.indexer_topk(q, w, keys, table, cu, torch.tensor([t], dtype=torch.int32), 4, 4, False)
    assert sorted(p for p in picks[0].tolist() if p >= 0) == entries


def test_ties_pick_the_smaller_index():
    q, w, keys = torch.ones(1, 1, 32), torch.ones(1, 1), torch.ones(1, 9, 32)
    table, cu = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    picks = ops.indexer_topk(q, w, keys, table, cu, torch.tensor([35], dtype=torch.int32), 4, 5, True)
    assert picks.tolist() == [[0, 1, 2, 3, 4]]
    indices, _ = ops.gate(torch.zeros(1, 8), torch.zeros(6, 8), torch.zeros(6), 3, 1.0)
    assert indices.tolist() == [[0, 1, 2]]
