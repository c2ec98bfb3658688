"""Kernels of the residual streams, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, FLOATS, assert_close, coefficients, normal

from v4npu import reference


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
