"""Kernels of the residual streams and of qkv_prepare, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, FLOATS, assert_close, coefficients, normal

from v4npu import reference
from v4npu.reference import pages
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.tolerances import ERROR_RATIO


@pytest.mark.parametrize("tokens,streams,hidden", [(1, 4, 4096), (7, 4, 1030), (3, 1, 16), (2, 8, 7), (5, 2, 1024)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_hc_post(emulated, sku, dtype, tokens, streams, hidden):
    x, h = normal(tokens, hidden, dtype=dtype), normal(tokens, streams, hidden, dtype=dtype, seed=1)
    post, comb = normal(tokens, streams, seed=2), normal(tokens, streams, streams, seed=3)
    got = emulated(sku).hc_post(x, h, post, comb)
    assert_close(got, reference.hc_post(x.double(), h.double(), post.double(), comb.double()), dtype)
    assert torch.equal(emulated(sku).hc_post(x, h, post, comb, in_place=True), got)


def exact(*tensors):
    return [t.double() for t in tensors]


@pytest.mark.parametrize(
    "tokens,streams,hidden", [(1, 4, 2048), (7, 4, 520), (3, 1, 16), (2, 8, 7), (5, 2, 1030), (9, 3, 40)]
)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_hc_pre(emulated, sku, dtype, tokens, streams, hidden):
    h, c = normal(tokens, streams, hidden, dtype=dtype), coefficients("hc_pre", streams, hidden)
    for iterations in (1, 20):
        y, post, comb = emulated(sku).hc_pre(h, *c, 1e-6, 1e-6, iterations)
        wanted = reference.hc_pre(*exact(h, *c), 1e-6, 1e-6, iterations)
        assert_close(y, wanted[0], dtype)
        assert_close(post, wanted[1], torch.float32)
        assert_close(comb, wanted[2], torch.float32)


@pytest.mark.parametrize("sku", ARCHS)
def test_hc_pre_keeps_a_nan_and_large_mixes_to_their_token(emulated, sku):
    h, (fn, scale, base) = normal(6, 4, 64), coefficients("hc_pre", 4, 64)
    clean = emulated(sku).hc_pre(h, fn, 300 * scale, base, 1e-6, 1e-6, 20)
    for mine, wanted in zip(clean, reference.hc_pre(*exact(h, fn, 300 * scale, base), 1e-6, 1e-6, 20), strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=2e-3, atol=1e-6)
    h[2, 1, 5] = torch.nan
    for mine, before in zip(emulated(sku).hc_pre(h, fn, 300 * scale, base, 1e-6, 1e-6, 20), clean, strict=True):
        assert mine[2].isnan().all()
        others = [0, 1, 3, 4, 5]
        assert torch.equal(mine[others], before[others])


@pytest.mark.parametrize("tokens,streams,hidden", [(1, 4, 4096), (7, 4, 1030), (3, 1, 16), (2, 8, 7)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_hc_head(emulated, sku, dtype, tokens, streams, hidden):
    h, c = normal(tokens, streams, hidden, dtype=dtype), coefficients("hc_head", streams, hidden)
    assert_close(emulated(sku).hc_head(h, *c, 1e-6, 1e-6), reference.hc_head(*exact(h, *c), 1e-6, 1e-6), dtype)


def official_head_norm(q):
    """Every step rounded once: plain torch on a CPU rounds a mean and a root of bfloat16 twice."""
    mean = q.square().double().mean(-1, keepdim=True).to(q.dtype)
    return q * (mean + 1e-6).double().rsqrt().to(q.dtype)


@pytest.mark.parametrize("dim,rope_dim", [(80, 16), (192, 64), (64, 64)])
@pytest.mark.parametrize("dtype,official", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize("sku", ARCHS)
def test_qkv_prepare(emulated, sku, dtype, official, dim, rope_dim):
    q, kv, weight = normal(37, 3, dim, dtype=dtype), normal(37, dim, dtype=dtype, seed=1), normal(dim, seed=2)
    where = torch.arange(37) * 1000, rope_frequencies(rope_dim, 160000.0)
    args = (q, kv, weight, *where, 1e-6, official)
    got, naive = emulated(sku).qkv_prepare(*args), reference.qkv_prepare(*args)
    if official:
        naive, other = (
            (reference.rope(official_head_norm(q), *where), naive[1]),
            reference.qkv_prepare(*args[:-1], False),
        )
        for mine, plain, without in zip(got, naive, other, strict=True):  # the last row has nothing but rotated values
            assert (mine != plain).double().mean() < 0.005
            assert (mine != without).double().mean() > 0.02 or (plain.dim() == 2 and dim == rope_dim)
    else:
        oracle = reference.qkv_prepare(*oracle_args("qkv_prepare", args))
        assert not any(complaint(*t, ERROR_RATIO["qkv_prepare"]) for t in zip(got, naive, oracle, strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sku", ARCHS)
def test_qkv_prepare_stores_rows_where_slots_say(emulated, sku, packed):
    q, freqs, dim = normal(9, 1, 192, dtype=torch.bfloat16), rope_frequencies(64, 10000.0), 192
    pool = torch.full((3, 4 * 264 + 40), 0xA5, dtype=torch.uint8)  # pages of a pool, which something else follows
    cache = pool[:, : 4 * 264].unflatten(1, (4, 264))
    if not packed:
        cache = torch.full((3, 4 * dim + 16), -7, dtype=torch.bfloat16)[:, : 4 * dim].unflatten(1, (4, dim))
    before, slots = cache.clone(), torch.tensor([11, -1, 0, 5, 12, 2, 3, -(2**60), 2**60])
    args = (q, q[:, 0] * 0.1, normal(dim, seed=2), torch.arange(9), freqs, 1e-6, packed)
    _, kv = emulated(sku).qkv_prepare(*args, cache, slots)
    stored = (slots >= 0) & (slots < 12)
    assert torch.equal(pages.read_kv(cache, slots[stored], dim, 64), kv[stored])
    pages.write_rows(before, pages.read_kv(cache, slots[stored], dim, 64), slots[stored], 64, "fp8")
    others = torch.ones(12, dtype=torch.bool)
    others[slots[stored]] = False
    others = others.nonzero()[:, 0]
    assert torch.equal(pages.read_kv(cache, others, dim, 64), pages.read_kv(before, others, dim, 64))
