"""Reference of hc_pre, hc_post and hc_head."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import wide
from v4npu.reference.rms_norm import inverse_rms


def _mixes(streams: Tensor, fn: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    """The streams widened [T, m, d], and fn applied to them flattened, times their inverse RMS [T, rows of fn]."""
    x = wide(streams)
    flat = x.flatten(-2)
    return x, torch.nn.functional.linear(flat, fn.to(x.dtype)) * inverse_rms(flat, norm_eps)


def sinkhorn(logits: Tensor, eps: float, iterations: int) -> Tensor:
    """Row softmax, then `iterations` column passes with a row pass between each; ends with columns [..., m, m]."""
    comb = logits.softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return comb


def hc_pre(
    streams: Tensor,
    fn: Tensor,
    scale: Tensor,
    base: Tensor,
    norm_eps: float,
    hc_eps: float,
    sinkhorn_iters: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See v4npu.ops.hc_pre."""
    m = streams.shape[-2]
    x, mixes = _mixes(streams, fn, norm_eps)
    scale, base = scale.to(x.dtype), base.to(x.dtype)
    pre = torch.sigmoid(mixes[..., :m] * scale[0] + base[:m]) + hc_eps
    post = 2 * torch.sigmoid(mixes[..., m : 2 * m] * scale[1] + base[m : 2 * m])
    comb = sinkhorn((mixes[..., 2 * m :] * scale[2] + base[2 * m :]).unflatten(-1, (m, m)), hc_eps, sinkhorn_iters)
    return (pre.unsqueeze(-1) * x).sum(-2).to(streams.dtype), post, comb


def hc_post(x: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """See v4npu.ops.hc_post."""
    f, h = wide(x), wide(streams)
    mixed = torch.matmul(comb.to(h.dtype).transpose(-1, -2), h)  # sum over comb's first index
    return (post.to(h.dtype).unsqueeze(-1) * f.unsqueeze(-2) + mixed).to(streams.dtype).contiguous()


def hc_head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, hc_eps: float) -> Tensor:
    """See v4npu.ops.hc_head."""
    x, mixes = _mixes(streams, fn, norm_eps)
    pre = torch.sigmoid(mixes * scale.to(x.dtype) + base.to(x.dtype)) + hc_eps
    return (pre.unsqueeze(-1) * x).sum(-2).to(streams.dtype)
