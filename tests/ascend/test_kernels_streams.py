"""Kernels of the residual streams, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, FLOATS, assert_close, normal

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
